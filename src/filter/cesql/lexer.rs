//! Owns the cutting of an expression's text into tokens.

use super::ast::Operator;
use super::parser::Fault;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Operator(Operator),
    Not,
    Like,
    In,
    Exists,
    Boolean(bool),
    /// Digits only; whether they fit is for the parser, which knows their sign.
    Digits(&'t str),
    /// What stands between the quotes, escapes undone.
    String(String),
    /// Letters, digits and `_`: an attribute or a function.
    Word(&'t str),
    Open,
    Close,
    Comma,
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Spanned<'t> {
    pub(super) token: Token<'t>,
    /// Byte offsets: where it begins and what follows it.
    pub(super) at: usize,
    pub(super) end: usize,
}

#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Spanned<'t>, Fault> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        let at = self.text.len() - rest.len();
        let (token, length) = match rest.chars().next() {
            None => (Token::End, 0),
            Some(quote @ ('\'' | '"')) => {
                string(rest, quote).ok_or_else(|| Fault { at, message: format!("this text has no closing {quote}") })?
            }
            Some(first) if is_word(first) => {
                let word = &rest[..rest.find(|other| !is_word(other)).unwrap_or(rest.len())];
                (keyword(word), word.len())
            }
            Some(first) => symbol(rest).ok_or_else(|| Fault {
                at,
                message: format!("'{}' means nothing here{}", first.escape_debug(), hint(first)),
            })?,
        };
        self.at = at + length;
        Ok(Spanned { token, at, end: self.at })
    }
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

fn keyword(word: &str) -> Token<'_> {
    static KEYWORDS: [(&str, Token<'static>); 9] = [
        ("and", Token::Operator(Operator::And)),
        ("or", Token::Operator(Operator::Or)),
        ("xor", Token::Operator(Operator::Xor)),
        ("not", Token::Not),
        ("like", Token::Like),
        ("in", Token::In),
        ("exists", Token::Exists),
        ("true", Token::Boolean(true)),
        ("false", Token::Boolean(false)),
    ];
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Token::Digits(word);
    }
    let known = KEYWORDS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    known.map_or(Token::Word(word), |(_, token)| token.clone())
}

fn symbol(rest: &str) -> Option<(Token<'static>, usize)> {
    use Operator as O;
    // The longer ones first.
    static SYMBOLS: [(&str, Token<'static>); 15] = [
        ("!=", Token::Operator(O::NotEqual)),
        ("<>", Token::Operator(O::NotEqual)),
        ("<=", Token::Operator(O::LessOrEqual)),
        (">=", Token::Operator(O::GreaterOrEqual)),
        ("<", Token::Operator(O::Less)),
        (">", Token::Operator(O::Greater)),
        ("=", Token::Operator(O::Equal)),
        ("+", Token::Operator(O::Plus)),
        ("-", Token::Operator(O::Minus)),
        ("*", Token::Operator(O::Times)),
        ("/", Token::Operator(O::Divide)),
        ("%", Token::Operator(O::Modulo)),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
    ];
    let (text, token) = SYMBOLS.iter().find(|(text, _)| rest.starts_with(text))?;
    Some((token.clone(), text.len()))
}

/// What people of other languages probably meant.
fn hint(first: char) -> &'static str {
    match first {
        '!' => "; unequal is '!=' and 'not' is NOT",
        '&' => "; 'and' is AND",
        '|' => "; 'or' is OR",
        _ => "",
    }
}

/// The text that begins at `rest`, and its length with both quotes. A backslash before the quote is the only escape: any
/// other stands for itself, so that `LIKE` patterns get theirs; it does take the next character with it, so `'\\'` is closed.
fn string(rest: &str, quote: char) -> Option<(Token<'static>, usize)> {
    let mut value = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some((Token::String(value), at + quote.len_utf8()));
        }
        if character == '\\' {
            let (_, escaped) = characters.next()?;
            if escaped != quote {
                value.push('\\');
            }
            value.push(escaped);
        } else {
            value.push(character);
        }
    }
    None
}

impl Token<'_> {
    /// As a message names it.
    pub(super) fn is_what(&self) -> &'static str {
        match self {
            Self::Operator(Operator::And | Operator::Or | Operator::Xor) => "a logic operator",
            Self::Operator(_) => "an operator",
            Self::Not => "NOT",
            Self::Like => "LIKE",
            Self::In => "IN",
            Self::Exists => "EXISTS",
            Self::Boolean(_) => "a boolean",
            Self::Digits(_) => "a number",
            Self::String(_) => "a text",
            Self::Word(_) => "a name",
            Self::Open => "'('",
            Self::Close => "')'",
            Self::Comma => "','",
            Self::End => "the end",
        }
    }
}
