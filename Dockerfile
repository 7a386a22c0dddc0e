# Front-end libraries: the lock file decides, install scripts do not run.
FROM node:22-trixie-slim AS assets
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --ignore-scripts

# The wheel, and an environment of hash-pinned dependencies with the wheel in it: the lock file lists all, pip adds none.
FROM python:3.13-slim-trixie AS build
WORKDIR /build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/build.txt requirements/image.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/vantage \
    && /opt/build/bin/pip --python /opt/vantage/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes -r requirements/image.txt
COPY --from=assets /build/node_modules node_modules
COPY LICENSE README.md pyproject.toml package.json package-lock.json hatch_build.py ./
COPY bundles bundles
COPY migrations migrations
COPY static static
COPY templates templates
COPY src src
RUN /opt/build/bin/python hatch_build.py --installed \
    && /opt/build/bin/python -m build --wheel --no-isolation \
    && /opt/build/bin/pip --python /opt/vantage/bin/python install --no-cache-dir --no-compile --no-deps \
        --no-index dist/*.whl
# Tests, sources of extension modules and their debugging symbols are a third of the dependencies. Libraries in *.libs
# are left as they are: they were edited after they were linked, which strip may break.
RUN find /opt/vantage -depth -type d \( -name test -o -name tests -o -name __pycache__ \) -exec rm -rf {} + \
    && find /opt/vantage -type f \( -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.py[ix]' -o -name '*.px[di]' \) -delete \
    && find /opt/vantage -type f -name '*.so' -not -path '*.libs/*' -exec strip --strip-debug {} +
# Bytecode of what a server imports, the standard library too: nothing is compiled at each start under a read-only root.
# It is also the proof that every module can be imported, but those of the extra chdb, which the image does without.
RUN PYTHONPYCACHEPREFIX=/opt/vantage/bytecode /opt/vantage/bin/python -c "import importlib, pkgutil, vantage; \
    modules = [module.name for module in pkgutil.walk_packages(vantage.__path__, 'vantage.')]; \
    modules += ['vantage_agent', 'asyncpg', 'clickhouse_driver.numpy.result', 'clickhouse_driver.compression.lz4', \
        'confluent_kafka.admin', 'sqlalchemy.dialects.postgresql.asyncpg', 'uvloop']; \
    [importlib.import_module(name) for name in modules if not name.endswith(('.__main__', '.arrow', '.chdb'))]"

FROM python:3.13-slim-trixie
RUN groupadd --system --gid 10001 vantage \
    && useradd --system --uid 10001 --gid vantage --home-dir /data --shell /usr/sbin/nologin vantage \
    && install --directory --owner vantage --group vantage --mode 0750 /data
COPY --from=build /opt/vantage /opt/vantage
ENV PATH=/opt/vantage/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/vantage/bytecode \
    PYTHONUNBUFFERED=1 \
    VANTAGE_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
# The port of `all` and `ingest`; `api` is given 5000, `worker` 9091.
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["vantage", "healthcheck"]
ENTRYPOINT ["vantage"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data"]
