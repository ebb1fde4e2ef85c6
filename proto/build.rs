//! Compiles `dts/v1` without a system protoc, keeping the comments for reflection.
use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=dts");
    let files = [
        "dts/v1/task.proto",
        "dts/v1/fleet.proto",
        "dts/v1/enrol.proto",
        "dts/v1/agent.proto",
        "dts/v1/alarm.proto",
        "dts/v1/check.proto",
        "dts/v1/verify.proto",
        "dts/v1/switch.proto",
    ];
    let descriptors = protox::Compiler::new(["."])?
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?
        .file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
