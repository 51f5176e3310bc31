# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
# The C code of aws-lc-rs needs a C compiler, which this image has; it needs no cmake.
WORKDIR /build

# The dependencies, in a layer of their own: it is built again only when Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src tests \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/main.rs \
    && cargo build --release --locked --bin knats

COPY src ./src
# Cargo goes by file times, and the sources may be older than the build of their stand-ins.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin knats

# glibc, libgcc and CA certificates; no shell. The user is 65532. For builds that can be repeated, add the digest.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="knats" \
      org.opencontainers.image.description="A Knative-style CloudEvents bridge over NATS JetStream" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /build/target/release/knats /knats
USER 65532:65532
# Ingress, and health.
EXPOSE 8080 9090
ENTRYPOINT ["/knats"]
CMD ["serve"]
