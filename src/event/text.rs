//! Looking for an ASCII character in a short text. The searches of the standard library are made for long ones, and cost a
//! multiple here.

/// As [`str::find`].
pub(super) fn find(text: &str, byte: u8) -> Option<usize> {
    text.bytes().position(|other| other == byte)
}

/// As [`str::split_once`].
pub(super) fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let place = find(text, byte)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}
