//! Makes inputs out of seeds: small changes, and parts of one seed in another. Blind to what they reach, unlike libFuzzer, but it
//! runs everywhere, and the seeds are what libFuzzer has found worth keeping.

use fastrand::Rng;

/// No input is longer; what a limit of ours stands at has tests of its own.
const MAX_LENGTH: usize = 8 * 1024;
const MAX_CHANGES: usize = 6;
/// What readers stumble over: ends, escapes, numbers at their bounds, characters that are none.
const TOKENS: [&[u8]; 24] = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\t",
    b" ",
    b"%",
    b"%25",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xef\xbb\xbf",
    "é".as_bytes(),
    "\u{fffe}".as_bytes(),
    "\u{1f600}".as_bytes(),
    b"null",
    b"-1",
    b"2147483648",
    b"18446744073709551616",
    b"1e999",
    b"00000000000000000000000000000000",
];

/// One more input.
pub(super) fn mutate(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = rng.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..rng.usize(1..=MAX_CHANGES) {
        change(&mut input, seeds, rng);
    }
    input.truncate(MAX_LENGTH);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Rng) {
    let at = range(input, rng);
    match rng.u8(0..7) {
        0 => {
            input.drain(at);
        }
        1 => {
            let part = input[at.clone()].to_vec();
            let times = rng.usize(1..4);
            input.splice(at.start..at.start, part.repeat(times));
        }
        2 => {
            let token = TOKENS[rng.usize(..TOKENS.len())];
            input.splice(at.start..at.start, token.iter().copied());
        }
        3 => {
            let token = TOKENS[rng.usize(..TOKENS.len())];
            input.splice(at, token.iter().copied());
        }
        4 => {
            let other = rng.choice(seeds).map(Vec::as_slice).unwrap_or_default();
            let part = other[range(other, rng)].to_vec();
            input.splice(at, part);
        }
        5 => {
            if let Some(byte) = input.get_mut(at.start) {
                *byte ^= 1 << rng.u8(0..8);
            }
        }
        _ => {
            if let Some(byte) = input.get_mut(at.start) {
                *byte = rng.u8(..);
            }
        }
    }
}

/// A part of it, more often a short one.
fn range(of: &[u8], rng: &mut Rng) -> std::ops::Range<usize> {
    let start = rng.usize(0..=of.len());
    let longest = if rng.bool() { 8 } else { of.len() };
    start..(start + rng.usize(0..=longest)).min(of.len())
}
