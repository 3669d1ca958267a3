"""Defines the string literals that settings, worker messages and wire models share."""

from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled", "interrupted"]  # `interrupted`: it was stopped
Quantization = Literal["none", "int8", "int4"]  # the most bits first
QuantizationSetting = Literal["none", "int8", "int4", "auto"]
Device = Literal["cpu", "cuda", "mps", "auto"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
CacheKind = Literal["packed", "own", "none"]  # one for all sequences, the architecture's own for each, none
