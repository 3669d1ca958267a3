"""The text that the built-in model learns from: written or generated here, one module per topic."""
