//! Manifest files and directories: which files, which documents in them, and whether they have changed.

use std::path::PathBuf;

use super::Fault;

/// One document of a manifest, not yet looked at.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file it stands in, as the user named it.
    pub file: String,
    /// Its place in the file, from 1.
    pub index: usize,
    pub value: serde_json::Value,
}

/// Reads all files, and all `.yaml`, `.yml` and `.json` files of directories, in the order of their names.
///
/// # Errors
/// A fault for each path that cannot be read and each file that is no YAML.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Document>, Vec<Fault>> {
    let _ = paths;
    todo!()
}
