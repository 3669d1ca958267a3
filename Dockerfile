# The server, with its built-in model. Models that are downloaded go to the volume /models, conversations to /data.
#
#   docker build -t llm-server .                      # for the CPU
#   docker build -t llm-server --build-arg CUDA=1 .   # for CUDA; run it with --gpus all
#   docker run -p 127.0.0.1:8000:8000 -v models:/models llm-server --model qwen3-0.6b

FROM python:3.11-slim-bookworm AS build
ARG CUDA=0
WORKDIR /build
COPY requirements.txt .
# hadolint ignore=DL3013,DL3042
RUN python -m venv /opt/venv \
    && sed '/^# The tests\./,$d' requirements.txt > server.txt \
    && if [ "$CUDA" = 1 ]; then index=https://pypi.org/simple; else index=https://download.pytorch.org/whl/cpu; fi \
    && /opt/venv/bin/pip install --no-cache-dir --index-url "$index" "$(grep '^torch[<>=]' server.txt)" \
    && /opt/venv/bin/pip install --no-cache-dir -r server.txt \
    && find /opt/venv -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11-slim-bookworm
# On CUDA, Triton compiles a kernel's launcher when a model is loaded; on the CPU, the server compiles its product of
# 4- and 8-bit weights.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --create-home --home-dir /srv/llm llm \
    && install --directory --owner=llm --group=llm /models /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/llm
COPY app app
COPY chat_cli.py LICENSE ./
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LLM_HOST=0.0.0.0 \
    LLM_PORT=8000 \
    LLM_DEVICE=auto \
    LLM_MODEL_CACHE_DIR=/models \
    TRITON_CACHE_DIR=/tmp/triton
USER 10001
VOLUME ["/models", "/data"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "app"]
