# A static gateway in an image of nothing else: docker build -t tidegate .
#
#   docker run -p 8080:8080 -v tidegate:/var/lib/tidegate \
#     -v "$PWD/tidegate.toml:/etc/tidegate/tidegate.toml:ro" tidegate
#
# Built for the architecture of the builder (x86_64 and aarch64).

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates make musl-tools python3 \
 && rm -rf /var/lib/apt/lists/*
# musl: its resolver works without the files that a static glibc looks for.
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
# Without symbols the binary has a fifth of the size; scripts/release keeps them beside it.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target=$(uname -m)-unknown-linux-musl \
 && cargo build --locked --release --target "$target" -p tidegate-server \
 && install -D "target/$target/release/tidegate" /image/tidegate \
 && install -D -m 0644 -t /image/licenses LICENSE-MIT LICENSE-APACHE \
 && scripts/notices "$target" > /image/licenses/THIRD-PARTY-LICENSES.txt \
 && install -d -m 0700 /image/data

FROM scratch
LABEL org.opencontainers.image.title="Tidegate" \
      org.opencontainers.image.description="Realtime event gateway: publish over HTTP, stream over WebSocket and SSE, resume without gaps" \
      org.opencontainers.image.source="https://github.com/tidegate/tidegate" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# For https to where keys of tokens are fetched from.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /image/tidegate /tidegate
COPY --from=build /image/licenses /licenses
# A new volume takes the owner of what it covers.
COPY --from=build --chown=65532:65532 /image/data /var/lib/tidegate

USER 65532:65532
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
ENV TIDEGATE_CONFIG=/etc/tidegate/tidegate.toml \
    TIDEGATE_LOG__DIR=/var/lib/tidegate \
    TIDEGATE_LOGS__FORMAT=json \
    TIDEGATE_LISTEN__PUBLIC=0.0.0.0:8080
# The operators' listener stays on the container's own loopback, where the health check below asks. It
# takes no credentials, so who wants Prometheus or probes to reach it chooses that:
# -e TIDEGATE_LISTEN__ADMIN=0.0.0.0:8081, in a network of its own, and never published (-p).
EXPOSE 8080
STOPSIGNAL SIGTERM
# Nothing else in the image could ask. While it drains or its log is halted it is not healthy; what restarts
# unhealthy containers should ask ["/tidegate", "health", "--live", "--admin", "127.0.0.1:8081"] instead.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/tidegate", "health"]
ENTRYPOINT ["/tidegate"]
CMD ["serve"]
