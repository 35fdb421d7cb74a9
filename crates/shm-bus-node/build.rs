//! Build script: what napi-rs needs from the linker.

fn main() {
    napi_build::setup();
}
