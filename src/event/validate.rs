//! The rules of the specification for names and values of attributes, 1.0 and 0.3.

use super::{Error, SpecVersion};

/// # Errors
/// Says which rule name or value break.
pub(super) fn attribute(version: SpecVersion, name: &str, value: &str) -> Result<(), Error> {
    let _ = (version, name, value);
    todo!()
}

/// As [`attribute`], and the name must be that of an extension.
///
/// # Errors
/// Says which rule name or value break.
pub(super) fn extension(version: SpecVersion, name: &str, value: &str) -> Result<(), Error> {
    let _ = (version, name, value);
    todo!()
}
