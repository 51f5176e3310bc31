//! Owns the tree that an expression is parsed into. Places are byte offsets into the expression's text.

use super::functions::Function;
use super::like::Pattern;

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Attribute {
        name: Box<str>,
        at: u32,
    },
    Not {
        operand: Box<Node>,
        at: u32,
    },
    Negate {
        operand: Box<Node>,
        at: u32,
    },
    /// Operators of one precedence, left to right. One node for the whole run, so that `a OR b OR ...` is as deep with a thousand
    /// operands as with two.
    Chain {
        first: Box<Node>,
        rest: Vec<Link>,
    },
    Like {
        operand: Box<Node>,
        pattern: Pattern,
        negated: bool,
    },
    In {
        operand: Box<Node>,
        set: Vec<Node>,
        negated: bool,
        at: u32,
    },
    Exists {
        name: Box<str>,
    },
    Call {
        function: Function,
        arguments: Vec<Node>,
        at: u32,
    },
    /// A call of a function that does not exist, or not with so many arguments.
    UnknownCall {
        name: Box<str>,
        arguments: Vec<Node>,
        at: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal {
    Boolean(bool),
    Integer(i32),
    String(Box<str>),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) operator: Operator,
    pub(super) at: u32,
    pub(super) operand: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    And,
    Or,
    Xor,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Times,
    Divide,
    Modulo,
}

/// Binary operators from the loosest to the tightest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Logic,
    Comparison,
    Additive,
    Multiplicative,
}

impl Operator {
    pub(super) fn precedence(self) -> Precedence {
        match self {
            Self::And | Self::Or | Self::Xor => Precedence::Logic,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => {
                Precedence::Comparison
            }
            Self::Plus | Self::Minus => Precedence::Additive,
            Self::Times | Self::Divide | Self::Modulo => Precedence::Multiplicative,
        }
    }
}

impl Precedence {
    /// The next tighter one; `None` above the tightest.
    pub(super) fn tighter(self) -> Option<Self> {
        match self {
            Self::Logic => Some(Self::Comparison),
            Self::Comparison => Some(Self::Additive),
            Self::Additive => Some(Self::Multiplicative),
            Self::Multiplicative => None,
        }
    }
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Literal(Literal::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_attribute(&self, wanted: &str) -> bool {
        matches!(self, Self::Attribute { name, .. } if **name == *wanted)
    }

    /// The first call of a function that does not exist, in the order of the text.
    pub(super) fn unknown_call(&self) -> Option<(&str, usize, u32)> {
        match self {
            Self::Literal(_) | Self::Attribute { .. } | Self::Exists { .. } => None,
            Self::Not { operand, .. } | Self::Negate { operand, .. } | Self::Like { operand, .. } => {
                operand.unknown_call()
            }
            Self::Chain { first, rest } => {
                first.unknown_call().or_else(|| rest.iter().find_map(|link| link.operand.unknown_call()))
            }
            Self::In { operand, set, .. } => operand.unknown_call().or_else(|| set.iter().find_map(Self::unknown_call)),
            Self::Call { arguments, .. } => arguments.iter().find_map(Self::unknown_call),
            Self::UnknownCall { name, arguments, at } => Some((name, arguments.len(), *at)),
        }
    }
}
