# docker build -f examples/docker/cuda.Dockerfile -t fergeneral:cuda .
# PyPI's wheels of torch for Linux bring the CUDA libraries along, so that a base image without them is enough
FROM python:3.12-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/fergeneral && /opt/fergeneral/bin/pip install --no-cache-dir "torch>=2.6" "torchvision>=0.21"
COPY pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY fergeneral fergeneral
COPY weights weights
RUN /opt/fergeneral/bin/pip install --no-cache-dir ".[yunet,onnx,parquet,video]"

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 fergeneral
COPY --from=build /opt/fergeneral /opt/fergeneral
# what the NVIDIA Container Toolkit is asked to bring in from the host
ENV PATH=/opt/fergeneral/bin:$PATH HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /data
ENTRYPOINT ["fergeneral"]
CMD ["--help"]
