//! Manifest files and directories: which files, which documents in them, and whether they have changed.

mod watcher;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use watcher::Watcher;

use super::Fault;

/// Larger files are refused.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// What makes a file in a directory a manifest.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// One document of a manifest, not yet looked at.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file it stands in, as the user named it.
    pub file: String,
    /// Its place in the file, from 1; empty documents count, but are not handed on.
    pub index: usize,
    pub value: serde_json::Value,
}

/// Reads all files, and all `.yaml`, `.yml` and `.json` files of directories, in the order of their names. Directories in
/// directories are not entered, and names that begin with a dot are left out (a mounted ConfigMap has such).
///
/// # Errors
/// A fault for each path that cannot be read and each document that is no YAML.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Document>, Vec<Fault>> {
    let (documents, faults) = read(paths);
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// Like [`load`], with all documents that can be read beside the faults of the others.
pub fn read(paths: &[PathBuf]) -> (Vec<Document>, Vec<Fault>) {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    load_file(&file, &mut documents, &mut faults);
                }
            }
            Err(error) => faults.push(file_fault(path, format!("cannot be read: {error}"))),
        }
    }
    (documents, faults)
}

/// Reads a text that is YAML itself, as an annotation may hold it.
pub(super) fn nested(text: &str) -> Result<serde_json::Value, String> {
    yaml::value(text)
}

/// The documents of a text and the faults of those that are none.
#[cfg(any(test, fuzzing))]
pub(super) fn of_text(file: &str, text: &str) -> (Vec<Document>, Vec<Fault>) {
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    yaml::parse(file, text, &mut documents, &mut faults);
    (documents, faults)
}

fn load_file(path: &Path, documents: &mut Vec<Document>, faults: &mut Vec<Fault>) {
    let text = read_bytes(path).map_err(|error| format!("cannot be read: {error}"));
    match text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is not UTF-8, expected YAML or JSON".to_owned()))
    {
        Ok(text) => yaml::parse(&path.display().to_string(), &text, documents, faults),
        Err(message) => faults.push(file_fault(path, message)),
    }
}

fn file_fault(path: &Path, message: String) -> Fault {
    Fault { file: path.display().to_string(), document: None, path: None, message }
}

/// The manifest files that a path stands for: itself, or those in it.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if is_manifest(&file) && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !hidden && EXTENSIONS.contains(&extension)
}

/// A file's bytes. Pipes and devices are refused: they may block or never end.
fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_FILE_BYTES / 1024 / 1024)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
