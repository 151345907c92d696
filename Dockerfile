# Redrive's image: built with Debian's OpenSSL, run on a slim Debian, because a 'command' source may
# want a shell. docker build -t redrive .   (without an engine: scripts/image build)
ARG RUST_IMAGE=docker.io/library/rust:1-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
ARG PROFILE=release
WORKDIR /build
# The dependencies in a layer of their own, built around an empty crate: they take minutes and change
# seldom. rust-toolchain.toml is left out on purpose: the image is the toolchain.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && cargo build --locked --profile "$PROFILE" --bin redrive \
    && rm -rf src
COPY . .
# Cargo goes by file times, and those of the checkout may be older than the empty crate's.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile "$PROFILE" --bin redrive \
    && install -D --strip "target/$(echo "$PROFILE" | sed 's/^dev$/debug/')/redrive" /out/redrive

FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 tini zlib1g \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
    && groupadd --gid 10001 redrive \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin redrive \
    && install -d -o redrive -g redrive -m 0750 /data
COPY --from=build /out/redrive /usr/local/bin/redrive
# The root file system may be read-only; SQLite's file is the only thing written, and it goes here.
WORKDIR /data
VOLUME /data
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
ENV REDRIVE_CONFIG=/etc/redrive/redrive.yaml
EXPOSE 8087 8088
# It asks where the configuration says that the node listens, and whether the process lives: a database that is away is no
# reason to kill it (Swarm and Podman do, where a check fails).
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["redrive", "health"]
# Process 1 has to bury whatever a 'command' source leaves behind; '-s' for where it is not process 1.
ENTRYPOINT ["tini", "-s", "--", "redrive"]
CMD ["serve"]
