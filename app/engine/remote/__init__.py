"""Serves a model with another server that speaks OpenAI's API, such as vLLM, llama-server or Ollama."""
