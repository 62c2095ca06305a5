"""Fast exact generation with encoder-decoder and small decoder models."""

from importlib.metadata import version as _version

from .config import GenerationConfig
from .model import Model, from_transformers, load
from .outputs import GenerateOutput

__version__ = _version("tritonseq")
__all__ = ["GenerateOutput", "GenerationConfig", "Model", "from_transformers", "load"]
