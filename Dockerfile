# Front-end libraries: the lock file decides, install scripts do not run.
FROM node:22-bookworm-slim AS assets
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --ignore-scripts

# The wheel, and an environment of hash-pinned dependencies with the wheel in it.
FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY requirements/build.txt requirements/server.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && python -m venv /opt/vantage \
    && /opt/vantage/bin/pip install --no-cache-dir --require-hashes -r requirements/server.txt
COPY --from=assets /build/node_modules node_modules
COPY LICENSE README.md pyproject.toml package.json package-lock.json hatch_build.py ./
COPY migrations migrations
COPY static static
COPY templates templates
COPY src src
RUN python hatch_build.py --installed \
    && python -m build --wheel --no-isolation \
    && /opt/vantage/bin/pip install --no-cache-dir --no-deps --no-index dist/*.whl

FROM python:3.13-slim-bookworm
RUN groupadd --system --gid 10001 vantage \
    && useradd --system --uid 10001 --gid vantage --home-dir /data --shell /usr/sbin/nologin vantage \
    && install --directory --owner vantage --group vantage --mode 0750 /data
COPY --from=build /opt/vantage /opt/vantage
ENV PATH=/opt/vantage/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VANTAGE_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["vantage", "healthcheck"]
ENTRYPOINT ["vantage"]
CMD ["serve", "--host", "0.0.0.0", "--data", "/data"]
