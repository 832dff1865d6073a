# Builds the proxy in one stage and carries only the binary into the next.
# Both images can be replaced, by a mirror's name or another release; they have to share a C library.
# Unset and empty mean the names below.
ARG RUST_IMAGE
ARG RUNTIME_IMAGE

FROM ${RUST_IMAGE:-rust:1.95-slim-bookworm} AS build
WORKDIR /build
# As in .cargo/config.toml: two builds are the same to the byte.
ENV SOURCE_DATE_EPOCH=0

# CARGO_REGISTRY_INDEX: a mirror of the crates index, such as sparse+https://mirror.example/index/ (with
# its last slash). Cargo.lock's checksums hold for it as well. It is known to this stage only. Cargo
# reads a variable of this name as a setting that it no longer supports, and stops: hence `env -u` below.
# STATIC: the program brings its C library along, so that RUNTIME_IMAGE may be scratch.
ARG CARGO_REGISTRY_INDEX=
ARG STATIC=
RUN mkdir .cargo \
    && if [ -n "$CARGO_REGISTRY_INDEX" ]; then \
        printf '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "%s"\n' \
            "$CARGO_REGISTRY_INDEX" >> .cargo/config.toml; \
    fi \
    && if [ -n "$STATIC" ]; then \
        printf '[build]\nrustflags = ["-Ctarget-feature=+crt-static"]\n' >> .cargo/config.toml; \
    fi

# The dependencies are a layer of their own: they are built with an empty program, and again only
# when a manifest changes. A target that is named keeps the flags of STATIC from procedural macros.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && printf '//! Stands in for the program.\nfn main() {}\n' > src/main.rs \
    && echo '//! Stands in for the library.' > src/lib.rs \
    && cp src/main.rs src/build.rs \
    && env -u CARGO_REGISTRY_INDEX cargo build --release --locked --target host-tuple --bin codex-reset-proxy

# Copied files keep their times, which may lie before the empty program's build: touch makes them new.
# CODEX_RESET_PROXY_COMMIT: what is built, as --version and the label say it.
COPY src ./src
ARG CODEX_RESET_PROXY_COMMIT=
RUN touch src/build.rs src/lib.rs src/main.rs \
    && env -u CARGO_REGISTRY_INDEX cargo build --release --locked --target host-tuple --bin codex-reset-proxy

FROM ${RUNTIME_IMAGE:-debian:bookworm-slim}
ARG CODEX_RESET_PROXY_COMMIT=
LABEL org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${CODEX_RESET_PROXY_COMMIT:-unknown}" \
      org.opencontainers.image.title="codex-reset-proxy" \
      org.opencontainers.image.description="A reverse proxy for LLM APIs that sends a request again when the upstream stays silent, and never after its first response byte" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY LICENSE /usr/share/doc/codex-reset-proxy/LICENSE
COPY --from=build /build/target/*/release/codex-reset-proxy /usr/local/bin/codex-reset-proxy

# The port inside the container is fixed; the one outside is chosen where it is published.
ENV LISTEN_HOST=0.0.0.0 \
    LISTEN_PORT=8788
EXPOSE 8788
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/codex-reset-proxy", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/codex-reset-proxy"]
