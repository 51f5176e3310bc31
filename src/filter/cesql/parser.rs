//! Owns CESQL's grammar: a Pratt parser from tokens to the tree. Parsing takes time linear in the text, and recursion is bounded.
//!
//! From the tightest: a call; `NOT` and unary `-`; `LIKE`, `IN`; `* / %`; `+ -`; comparisons; `AND OR XOR`, which share one level.
//! Operators of one level go from left to right (specification, section 3.6).

use super::ast::{Link, Literal, Node, Operator, Precedence};
use super::functions::Function;
use super::lexer::{Lexer, Spanned, Token};
use super::like::Pattern;

/// Bytes of one expression.
pub const MAX_LENGTH: usize = 64 * 1024;
/// Parentheses, calls, sets and prefixes inside one another; each costs a few frames of the stack, here and in evaluation.
pub const MAX_DEPTH: usize = 64;

/// What is wrong, and where: a byte offset.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) message: String,
}

const A_VALUE: &str = "an attribute, a text, a number, true, false, a function, NOT, EXISTS, '-' or '('";

pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > MAX_LENGTH {
        return Err(Fault {
            at: 0,
            message: format!("the expression has {} bytes, at most {MAX_LENGTH} are allowed", text.len()),
        });
    }
    let mut lexer = Lexer::new(text);
    let next = lexer.next()?;
    let mut parser = Parser { text, lexer, next, depth: 0, stacked: 0 };
    let node = parser.expression(Precedence::Logic)?;
    match parser.next.token {
        Token::End => Ok(node),
        _ => Err(parser.expected("an operator or the end")),
    }
}

struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    next: Spanned<'t>,
    depth: usize,
    /// `LIKE`s and `IN`s applied to another's result, without parentheses; they deepen the tree but not the parser's stack.
    stacked: usize,
}

impl<'t> Parser<'t> {
    /// An expression whose operators are of this precedence or tighter.
    fn expression(&mut self, loosest: Precedence) -> Result<Node, Fault> {
        let mut left = self.operand()?;
        while let Token::Operator(operator) = self.next.token {
            let precedence = operator.precedence();
            if precedence < loosest {
                break;
            }
            let at = place(self.advance()?.at);
            let operand = match precedence.tighter() {
                Some(tighter) => self.expression(tighter)?,
                None => self.operand()?,
            };
            left = chained(left, Link { operator, at, operand });
        }
        Ok(left)
    }

    /// A prefix expression and the `LIKE`s and `IN`s behind it.
    fn operand(&mut self) -> Result<Node, Fault> {
        let mut node = self.prefix()?;
        let mut is_first = true;
        while matches!(self.next.token, Token::Not | Token::Like | Token::In) {
            if !is_first {
                self.stacked += 1;
                self.check_depth(self.stacked)?;
            }
            is_first = false;
            let negated = self.take(&Token::Not)?;
            let operator = self.advance()?;
            node = match operator.token {
                Token::Like => self.like(node, negated)?,
                Token::In => {
                    let (operand, at) = (Box::new(node), place(operator.at));
                    Node::In { operand, set: self.set()?, negated, at }
                }
                _ => return Err(self.unexpected(&operator, "LIKE or IN after NOT")),
            };
        }
        Ok(node)
    }

    fn prefix(&mut self) -> Result<Node, Fault> {
        self.depth += 1;
        self.check_depth(self.depth)?;
        let first = self.advance()?;
        let at = place(first.at);
        let node = match first.token {
            Token::Not => Node::Not { operand: Box::new(self.prefix()?), at },
            Token::Operator(sign @ (Operator::Minus | Operator::Plus)) => self.signed(sign, &first)?,
            Token::Exists => Node::Exists { name: self.attribute_to_exist()? },
            Token::Boolean(value) => Node::Literal(Literal::Boolean(value)),
            Token::Digits(digits) => integer("", digits, first.at)?,
            Token::String(text) => Node::Literal(Literal::String(text.into_boxed_str())),
            Token::Word(word) if self.next.token == Token::Open && is_function_name(word) => self.call(word, at)?,
            Token::Word(word) => Node::Attribute { name: attribute_name(word, first.at)?, at },
            Token::Open => {
                let inner = self.expression(Precedence::Logic)?;
                self.close("an operator or ')'")?;
                inner
            }
            _ => return Err(self.unexpected(&first, A_VALUE)),
        };
        self.depth -= 1;
        Ok(node)
    }

    /// A number with its sign, so that -2147483648 can be written; or the negative of anything else.
    fn signed(&mut self, sign: Operator, first: &Spanned<'t>) -> Result<Node, Fault> {
        let minus = sign == Operator::Minus;
        if let Token::Digits(digits) = self.next.token {
            let at = self.advance()?.at;
            return integer(if minus { "-" } else { "" }, digits, at);
        }
        if !minus {
            return Err(self.expected("a number after the sign '+'"));
        }
        Ok(Node::Negate { operand: Box::new(self.prefix()?), at: place(first.at) })
    }

    fn attribute_to_exist(&mut self) -> Result<Box<str>, Fault> {
        let name = self.advance()?;
        match name.token {
            Token::Word(word) | Token::Digits(word) => attribute_name(word, name.at),
            _ => Err(self.unexpected(&name, "the name of an attribute after EXISTS")),
        }
    }

    fn like(&mut self, operand: Node, negated: bool) -> Result<Node, Fault> {
        let pattern = self.advance()?;
        let Token::String(text) = &pattern.token else {
            return Err(self.unexpected(&pattern, "the pattern after LIKE as a text in quotes"));
        };
        let pattern = Pattern::new(text).map_err(|message| Fault { at: pattern.at, message })?;
        Ok(Node::Like { operand: Box::new(operand), pattern, negated })
    }

    fn set(&mut self) -> Result<Vec<Node>, Fault> {
        if !self.take(&Token::Open)? {
            return Err(self.expected("'(' and a list of values after IN"));
        }
        // Unlike parentheses and calls, a set is not read within `prefix`, which counts those.
        self.depth += 1;
        self.check_depth(self.depth)?;
        let set = self.list()?;
        self.depth -= 1;
        Ok(set)
    }

    fn call(&mut self, name: &str, at: u32) -> Result<Node, Fault> {
        self.advance()?;
        let arguments = if self.take(&Token::Close)? { Vec::new() } else { self.list()? };
        Ok(match Function::find(name, arguments.len()) {
            Some(function) => Node::Call { function, arguments, at },
            None => Node::UnknownCall { name: name.to_ascii_uppercase().into_boxed_str(), arguments, at },
        })
    }

    /// One expression or more, and the closing parenthesis.
    fn list(&mut self) -> Result<Vec<Node>, Fault> {
        let mut list = vec![self.expression(Precedence::Logic)?];
        while self.take(&Token::Comma)? {
            list.push(self.expression(Precedence::Logic)?);
        }
        self.close("an operator, ',' or ')'")?;
        Ok(list)
    }

    fn close(&mut self, expected: &str) -> Result<(), Fault> {
        if self.take(&Token::Close)? { Ok(()) } else { Err(self.expected(expected)) }
    }

    fn take(&mut self, token: &Token<'_>) -> Result<bool, Fault> {
        let is_there = self.next.token == *token;
        if is_there {
            self.advance()?;
        }
        Ok(is_there)
    }

    fn advance(&mut self) -> Result<Spanned<'t>, Fault> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn check_depth(&self, depth: usize) -> Result<(), Fault> {
        if depth <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("the expression is nested more than {MAX_DEPTH} deep");
        Err(Fault { at: self.next.at, message })
    }

    fn expected(&self, expected: &str) -> Fault {
        self.unexpected(&self.next, expected)
    }

    fn unexpected(&self, found: &Spanned<'_>, expected: &str) -> Fault {
        const MAX_SHOWN_BYTES: usize = 24;
        let shown = &self.text[found.at..found.end];
        let shown = match &found.token {
            Token::Open | Token::Close | Token::Comma | Token::End | Token::Not | Token::Like | Token::In => {
                String::new()
            }
            _ if shown.len() > MAX_SHOWN_BYTES => String::new(),
            Token::String(_) => format!(" {}", shown.escape_debug()),
            _ => format!(" '{shown}'"),
        };
        Fault { at: found.at, message: format!("expected {expected}, found {}{shown}", found.token.is_what()) }
    }
}

/// `left operator right`; `left` may itself be a run of operators of this precedence, and grows then.
fn chained(left: Node, link: Link) -> Node {
    match left {
        Node::Chain { first, mut rest }
            if rest.first().is_some_and(|known| known.operator.precedence() == link.operator.precedence()) =>
        {
            rest.push(link);
            Node::Chain { first, rest }
        }
        first => Node::Chain { first: Box::new(first), rest: vec![link] },
    }
}

fn integer(sign: &str, digits: &str, at: usize) -> Result<Node, Fault> {
    let fault = |_| Fault { at, message: "the number is out of range, expected -2147483648 to 2147483647".to_owned() };
    format!("{sign}{digits}").parse().map(|value| Node::Literal(Literal::Integer(value))).map_err(fault)
}

/// Attribute names are lower case in CloudEvents; as every other word of CESQL they may be written in any.
fn attribute_name(word: &str, at: usize) -> Result<Box<str>, Fault> {
    if word.contains('_') {
        let message = format!("'{word}' is no attribute name: expected letters and digits only");
        return Err(Fault { at, message });
    }
    Ok(word.to_ascii_lowercase().into_boxed_str())
}

fn is_function_name(word: &str) -> bool {
    !word.starts_with('_') && !word.bytes().any(|byte| byte.is_ascii_digit())
}

/// Places are kept small; [`MAX_LENGTH`] is far below the limit.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
