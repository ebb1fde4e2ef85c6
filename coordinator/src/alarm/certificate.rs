//! Until when the coordinator's certificates are good.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dts_common::pem;

use crate::access::certificate::Shown;

/// The files that can be read now, with the end of the first certificate in each that expires.
pub(super) fn read(files: &[PathBuf]) -> Vec<(String, SystemTime)> {
    files.iter().filter_map(|file| Some((file.display().to_string(), until(file)?))).collect()
}

fn until(file: &Path) -> Option<SystemTime> {
    let chain = pem::certificates("certificate", file).ok()?;
    chain.iter().filter_map(|certificate| Some(Shown::read(certificate)?.expires)).min()
}
