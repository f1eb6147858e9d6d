"""The objective against the authors' own code: values and gradients of ../shared/reference, packed in this folder."""
