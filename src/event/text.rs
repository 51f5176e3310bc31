//! Looking for ASCII characters in short texts. The searches of the standard library are made for long ones, and cost a multiple
//! here.

use std::ops::BitOr;

/// As [`str::find`].
pub(super) fn find(text: &str, byte: u8) -> Option<usize> {
    text.bytes().position(|other| other == byte)
}

/// As [`str::split_once`].
pub(super) fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let place = find(text, byte)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// Whether nothing in the text is found; what stands for itself everywhere, such as `0`, never is.
pub(super) fn has_none(text: &str, find: impl Fn(Eight) -> Found) -> bool {
    let bytes = text.as_bytes();
    // The last eight bytes may be looked at twice.
    let last = bytes.last_chunk().copied().unwrap_or_else(|| {
        let mut padded = [b'0'; 8];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        padded
    });
    let (chunks, _) = bytes.as_chunks();
    let found = chunks.iter().fold(find(Eight::of(last)), |found, eight| found | find(Eight::of(*eight)));
    found.first().is_none()
}

/// Eight bytes that are looked at in one go.
#[derive(Clone, Copy)]
pub(super) struct Eight(u64);

impl Eight {
    const EACH: u64 = u64::MAX / 255;

    pub(super) fn of(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }

    /// Finds the bytes below an ASCII character. What comes behind the first one found is not to be relied on.
    pub(super) fn below(self, limit: u8) -> Found {
        Found(self.0.wrapping_sub(Self::EACH * u64::from(limit)) & !self.0)
    }

    /// Finds an ASCII character, likewise.
    pub(super) fn is(self, byte: u8) -> Found {
        Self(self.0 ^ (Self::EACH * u64::from(byte))).below(1)
    }

    /// Finds what is not ASCII.
    pub(super) fn beyond_ascii(self) -> Found {
        Found(self.0)
    }
}

/// Which of eight bytes were found.
#[derive(Clone, Copy)]
pub(super) struct Found(u64);

impl Found {
    /// The first of them.
    pub(super) fn first(self) -> Option<usize> {
        let high = self.0 & (Eight::EACH << 7);
        (high != 0).then(|| high.trailing_zeros() as usize / 8)
    }
}

impl BitOr for Found {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_each_byte_finds(bytes in any::<[u8; 8]>(), other in 0..128_u8) {
            let eight = Eight::of(bytes);
            let first = |is: &dyn Fn(u8) -> bool| bytes.iter().position(|byte| is(*byte));
            prop_assert_eq!(eight.below(other).first(), first(&|byte| byte < other));
            prop_assert_eq!(eight.is(other).first(), first(&|byte| byte == other));
            prop_assert_eq!(eight.beyond_ascii().first(), first(&|byte| !byte.is_ascii()));
            let found = eight.is(b'"') | eight.below(b' ');
            prop_assert_eq!(found.first(), first(&|byte| byte == b'"' || byte < b' '));
        }

        #[test]
        fn a_text_of_any_length_is_looked_at_whole(text in "[a-c\"é ]{0,40}") {
            prop_assert_eq!(has_none(&text, |eight| eight.is(b'"')), !text.contains('"'));
            prop_assert_eq!(has_none(&text, Eight::beyond_ascii), text.is_ascii());
        }
    }
}
