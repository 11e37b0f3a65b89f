# What people type. `just check` only reads and is what CI runs; `just fix` writes.

# Everything CI asks for.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    cargo deny check

# Formats, and mends what clippy can mend.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# The simulator: regions from a seed, with loss, delay, partition, crash. `PANGAEA_SEED=42 just sim` tells one seed as a story,
# `just sim cuts deaths` plays two profiles only.
sim *args:
    cargo test -p pangaea-sim --test seeds -- {{args}}

# Three regions on this machine.
quickstart *args:
    cargo run --release --bin pangaea -- quickstart {{args}}
