# Trains and restores on NVIDIA GPUs. The host needs its driver and the container toolkit.
#
#     docker build -t eddsrn .
#     docker run --rm --init --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" eddsrn \
#         train --config=eddsrn_plus --config.data.source=folder:photos
FROM python:3.13-slim
WORKDIR /src
COPY requirements.txt ./
COPY requirements requirements
RUN pip install --no-cache-dir -r requirements.txt -r requirements/cuda13.txt
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY eddsrn_jax eddsrn_jax
RUN pip install --no-cache-dir --no-deps .
# Any user may write here: the packs of photos and the compiled programs.
ENV XDG_CACHE_HOME=/tmp/cache
WORKDIR /work
ENTRYPOINT ["eddsrn"]
CMD ["help"]
