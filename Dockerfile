# Two images, both without download tools or compilers:
#   docker build -t tmdb-harvester .                           the backfill, without a time limit
#   docker build -t tmdb-harvester-lambda --target lambda .    the Lambda function, 15 minutes per invocation
# They contain the packages in uv.lock, from wheels only, with each file's hash checked on download.

ARG PYTHON_VERSION=3.13
ARG UV_VERSION=0.13.9

FROM ghcr.io/astral-sh/uv:${UV_VERSION} AS uv


FROM public.ecr.aws/lambda/python:${PYTHON_VERSION} AS lambda-build
COPY --from=uv /uv /usr/local/bin/
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY pyproject.toml uv.lock ./
# Without the packages of the command line: no terminal here, and invocations use asyncio's own loop.
RUN uv export --quiet --frozen --no-dev --no-emit-project \
        --prune typer --prune rich --prune uvloop -o wanted.txt \
    && uv pip install --require-hashes --no-deps --only-binary :all: --target "${LAMBDA_TASK_ROOT}" -r wanted.txt \
    && rm -rf "${LAMBDA_TASK_ROOT}/bin"
COPY harvester ${LAMBDA_TASK_ROOT}/harvester
# Lambda's file system is read-only: modules not compiled here would be compiled again at every cold start.
RUN rm -rf "${LAMBDA_TASK_ROOT}/harvester/demo" "${LAMBDA_TASK_ROOT}/harvester/fakes" \
    && chmod -R a+rX "${LAMBDA_TASK_ROOT}" \
    && python -m compileall -q --invalidation-mode unchecked-hash "${LAMBDA_TASK_ROOT}"


FROM public.ecr.aws/lambda/python:${PYTHON_VERSION} AS lambda
COPY --from=lambda-build ${LAMBDA_TASK_ROOT} ${LAMBDA_TASK_ROOT}
CMD ["harvester.aws_lambda.handler.handler"]


FROM python:${PYTHON_VERSION}-slim-bookworm AS backfill-build
COPY --from=uv /uv /usr/local/bin/
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/harvester
WORKDIR /build
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project --no-build
COPY harvester harvester
# Copied, because it is pure Python: building its wheel would download a build backend that uv.lock has no hash of.
RUN cp -R harvester "$(/opt/harvester/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && chmod -R a+rX /opt/harvester \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/harvester/lib


FROM python:${PYTHON_VERSION}-slim-bookworm AS backfill
# tini is process 1: the kernel drops a SIGTERM to a process 1 without a handler, and Python needs 0.1 s to install one.
# All files of the user are below /app: .env, config/harvester.toml, .aws/, and csv/, a link to /csv, so that
# `MOVIES_CSV=csv/movies.csv` is valid both here and on the host, beside the folder that is mounted.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
        /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/* \
    && groupadd --gid 10001 harvester \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app harvester \
    && mkdir /app \
    && ln -s /csv /app/csv
COPY --from=backfill-build /opt/harvester /opt/harvester
# PYTHONSAFEPATH: no file in /app can be imported as a module.
ENV PATH=/opt/harvester/bin:$PATH HOME=/app LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONUTF8=1 PYTHONSAFEPATH=1
WORKDIR /app
USER 10001:10001
# Open batches are drained for up to 20 s: use `docker stop -t 30`; by default Docker kills after 10 s.
STOPSIGNAL SIGTERM
# A harvest has no port to check. But it logs a line every 10 s, even while it waits: a process that has not run at all
# for a minute is stopped or stuck, so unhealthy. If /tmp is not writable, it counts as healthy.
HEALTHCHECK --interval=60s --timeout=5s --start-period=60s --retries=3 CMD \
    seen=/tmp/.seen; was=$(cat $seen 2>/dev/null); \
    now=$(grep -hsA99 "^Name:.python" /proc/[0-9]*/status | grep ctxt_switches); \
    echo "$now" 2>/dev/null >$seen; [ -z "$now" ] || [ "$now" != "$was" ]
ENTRYPOINT ["tini", "-s", "--", "python", "-m", "harvester"]
CMD ["upload", "--then-harvest"]
