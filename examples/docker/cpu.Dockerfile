# docker build -f examples/docker/cpu.Dockerfile -t fergeneral:cpu .
FROM python:3.12-slim-bookworm AS build
WORKDIR /build
# PyTorch's own index has wheels without CUDA, which are much smaller
RUN python -m venv /opt/fergeneral && /opt/fergeneral/bin/pip install --no-cache-dir \
    "torch>=2.6" "torchvision>=0.21" --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY fergeneral fergeneral
COPY weights weights
RUN /opt/fergeneral/bin/pip install --no-cache-dir ".[yunet,onnx,parquet,video]"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 fergeneral
COPY --from=build /opt/fergeneral /opt/fergeneral
# the weights are in the package; a name on the Hub is refused instead of downloaded
ENV PATH=/opt/fergeneral/bin:$PATH HF_HUB_OFFLINE=1
USER 1000
WORKDIR /data
ENTRYPOINT ["fergeneral"]
CMD ["--help"]
