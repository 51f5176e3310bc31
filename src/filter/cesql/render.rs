//! Owns how a place in an expression is shown: its line, and a caret under the place.

/// Characters of the line that are shown before and after the place.
const CONTEXT_CHARS: usize = 50;
const INDENT: &str = "  ";

/// The message, the line of `text` that holds byte `at`, and a caret under that place.
pub(super) fn with_caret(message: &str, text: &str, at: usize) -> String {
    let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
    let before = before.rsplit('\n').next().unwrap_or_default();
    let after = after.split('\n').next().unwrap_or_default();
    let hidden = before.chars().count().saturating_sub(CONTEXT_CHARS);
    let mut line = String::from(if hidden > 0 { "..." } else { "" });
    line.extend(before.chars().skip(hidden).map(plain));
    let caret = line.chars().count();
    line.extend(after.chars().take(CONTEXT_CHARS).map(plain));
    if after.chars().nth(CONTEXT_CHARS).is_some() {
        line.push_str("...");
    }
    format!("{message}\n{INDENT}{}\n{INDENT}{}^", line.trim_end(), " ".repeat(caret))
}

/// A control character would move the caret, or worse.
fn plain(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}
