# A small image without CUDA: the command, for one machine or for the head of a CPU cluster.
#   docker build -f docs/cluster/cpu.Dockerfile -t tandem:0.1.0-cpu .
#   docker run --rm --shm-size=2g -v "$PWD:/work" tandem:0.1.0-cpu quickstart
# Ray keeps its object store in /dev/shm, hence --shm-size; `--in-process` needs none.
FROM python:3.11-slim
WORKDIR /opt/tandem
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY actors actors
COPY orchestrator orchestrator
COPY jobs jobs
COPY tandem tandem
# The versions that the project is tested with; torch as built for CPUs (0.2 GB instead of 5).
RUN pip install --no-cache-dir --constraint requirements.lock \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[s3,serve]' \
 && useradd --create-home --uid 1000 tandem
USER 1000
WORKDIR /work
ENTRYPOINT ["tandem"]
CMD ["--help"]
