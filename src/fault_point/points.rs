//! The crash matrix: every point, the ways of events that lead through it, and what a crash there costs. ARCHITECTURE.md shows
//! this list; `tests/crash_matrix.rs` kills, cuts and stalls the bridge at each of its rows.

use Receiver::{DeadLetterSink, Reply, Subscriber};

/// The way of an event on which it comes to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One event from its request to the 202.
    Ingress,
    /// The same for a batch.
    BatchedIngress,
    /// Delivered, and no reply.
    Delivery,
    /// Delivered straight into another channel.
    IntoChannel,
    /// Refused by the subscription's filter.
    Filtered,
    /// Tried again and again, and kept.
    UsedUp,
    /// Answered with an event, which goes to a URL.
    Reply,
    /// Answered with an event, which goes into a channel.
    ReplyIntoChannel,
    /// Answered with an event, which goes back into the broker.
    BrokerReply,
    /// Given up, to a dead letter sink.
    DeadLetterSink,
    /// Given up, and kept in `KN_DEADLETTERS`.
    Kept,
    /// Given up while `KN_DEADLETTERS` is full.
    NotKept,
    /// No event, and set aside.
    Poison,
    /// No event, while `KN_DEADLETTERS` is full.
    PoisonNotKept,
    /// Delivered with others in one request.
    Batch,
    /// The same, when the request fails at first.
    FailedBatch,
    /// A kept dead letter that is delivered at last.
    Redrive,
    /// A kept dead letter that fails again.
    RedriveKept,
    /// At work when the bridge is told to end, and not finished in time.
    Drain,
}

impl Way {
    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "taken in",
            Self::BatchedIngress => "taken in, batch",
            Self::Delivery => "delivered",
            Self::IntoChannel => "delivered into a channel",
            Self::Filtered => "filtered",
            Self::UsedUp => "retried until kept",
            Self::Reply => "reply to a URL",
            Self::ReplyIntoChannel => "reply into a channel",
            Self::BrokerReply => "reply into the broker",
            Self::DeadLetterSink => "dead letter sink",
            Self::Kept => "kept",
            Self::NotKept => "kept, but not yet",
            Self::Poison => "set aside",
            Self::PoisonNotKept => "set aside, but not yet",
            Self::Batch => "batch",
            Self::FailedBatch => "batch that fails",
            Self::Redrive => "redriven",
            Self::RedriveKept => "redriven, kept again",
            Self::Drain => "drain",
        }
    }
}

/// Who an event goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    Subscriber,
    Reply,
    DeadLetterSink,
}

/// What a crash at a point costs an event on one way.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub way: Way,
    /// What happens then.
    pub then: &'static str,
    /// Who may get the event once more; nobody else does.
    pub again: &'static [Receiver],
    /// Whether an attempt may be lost: the delivery counts as one although none was made.
    pub spends: bool,
}

macro_rules! points {
    (@) => { false };
    (@ spends) => { true };
    ($($point:ident $name:literal $awaited:literal {
        $($way:ident $([$spends:ident])? -> [$($again:expr),*]: $then:literal;)+
    })+) => {
        /// A place where the bridge waits while it has an event in hand.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $awaited] $point,)+
        }

        impl Point {
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// What a test calls it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name),+ }
            }

            /// What is waited for there.
            pub fn awaited(self) -> &'static str {
                match self { $(Self::$point => $awaited),+ }
            }

            /// What a crash there costs, way by way.
            pub fn rows(self) -> &'static [Row] {
                match self { $(Self::$point => &[
                    $(Row { way: Way::$way, then: $then, again: &[$($again),*], spends: points!(@ $($spends)?) }),+
                ]),+ }
            }
        }
    };
}

points! {
    BodyRead "body-read" "the body of a request" {
        Ingress -> []: "there was no 202 and nothing is stored: the source sends again";
    }
    EventSent "event-sent" "room to send an event to JetStream" {
        Ingress -> []: "there was no 202: the source sends again; source and id make the dedupe id, so within the stream's duplicate window it is stored once";
        IntoChannel -> []: "delivered again; the delivery makes the dedupe id, so the other channel has it once";
        ReplyIntoChannel -> [Subscriber]: "the subscriber is called again; a reply with the same source and id is stored once";
        Kept -> [Subscriber]: "the subscriber is tried once more; the event ends there again, as one copy";
        Poison -> []: "it comes again and is set aside, as one copy";
        RedriveKept -> [Subscriber]: "the old copy is still listed";
    }
    EventAcknowledged "event-acknowledged" "the PubAck of an event" {
        Ingress -> []: "as before it was sent, whether it is stored or not";
        IntoChannel -> []: "as before it was sent";
        ReplyIntoChannel -> [Subscriber]: "as before it was sent";
        Kept -> [Subscriber]: "as before it was sent";
        Poison -> []: "as before it was sent";
        RedriveKept -> [Subscriber]: "the old copy is still listed, maybe beside the new one; the next redrive leaves one";
    }
    BatchSent "batch-sent" "room to send an event of a batch" {
        BatchedIngress -> []: "there was no 202: the source sends the whole batch again, and what was stored of it is dropped by its dedupe id";
    }
    BatchAcknowledged "batch-acknowledged" "the PubAck of an event of a batch" {
        BatchedIngress -> []: "as before it was sent";
    }
    AnswerReady "answer-ready" "the rest of a body that nobody reads, before the answer" {
        Ingress -> []: "the event is stored, and there was no 202: the source sends again, and it is dropped by its dedupe id";
    }
    PullAsked "pull-asked" "room to ask for more messages" {
        Delivery [spends] -> [Subscriber]: "an event that is at work meanwhile is delivered again after the ack wait";
    }
    TakenIn "taken-in" "the start of what a pull brought" {
        Delivery [spends] -> [Subscriber]: "delivered again after the ack wait, and that counts as an attempt";
    }
    RefusedSettled "refused-settled" "room to acknowledge what the filter refuses" {
        Filtered -> []: "it comes again and is refused again";
    }
    SlotTaken "slot-taken" "a free place among the requests under way" {
        Delivery [spends] -> []: "delivered again after the ack wait, and that counts as an attempt";
        UsedUp [spends] -> []: "delivered again after the ack wait, and that counts as an attempt";
    }
    Attempted "attempted" "the answer to an attempt" {
        Delivery [spends] -> [Subscriber]: "delivered again after the ack wait";
        UsedUp [spends] -> []: "retried after the ack wait instead of the backoff; attempts made so far stay counted";
        Redrive -> [Subscriber]: "the kept copy is still listed; redriven again, the sink may see the event twice";
    }
    Settled "settled" "room to acknowledge what is delivered, or safe as a dead letter" {
        Delivery -> [Subscriber]: "the ack is lost, and the event is delivered again";
        IntoChannel -> []: "it comes again, and the other channel has it once";
        Reply -> [Subscriber, Reply]: "the subscriber is called again, and its reply goes out again";
        ReplyIntoChannel -> [Subscriber]: "the subscriber is called again; a reply with the same source and id is stored once within the duplicate window";
        BrokerReply -> [Subscriber]: "the same";
        DeadLetterSink -> [Subscriber, DeadLetterSink]: "both are tried once more";
        Kept -> [Subscriber]: "the subscriber is tried once more; there is one kept copy within the duplicate window, and never none";
    }
    GivenBack "given-back" "room to give an event back for its retry" {
        UsedUp -> []: "retried after the ack wait instead of the backoff; attempts made so far stay counted";
        FailedBatch -> []: "the same";
    }
    ReplySent "reply-sent" "the answer to a reply" {
        Reply -> [Subscriber, Reply]: "the subscriber is called again; its reply is not lost, and the tries of its new reply begin anew";
    }
    ReplyWaits "reply-waits" "the next try of a reply" {
        Reply -> [Subscriber, Reply]: "the same";
    }
    BrokerReplySent "broker-reply-sent" "the broker to store a reply" {
        BrokerReply -> [Subscriber]: "the subscriber is called again; a reply with the same source and id is stored once";
    }
    DeadLetterSent "dead-letter-sent" "the answer of a dead letter sink" {
        DeadLetterSink -> [Subscriber, DeadLetterSink]: "the subscriber is tried once more (its retries are used up), then the sink, with tries counted anew";
    }
    DeadLetterWaits "dead-letter-waits" "the next try of a dead letter sink" {
        DeadLetterSink -> [Subscriber, DeadLetterSink]: "the same";
    }
    KeepWaits "keep-waits" "the next try to keep a dead letter" {
        NotKept -> [Subscriber]: "the subscriber is tried once more; the event is kept when there is room again";
    }
    PoisonSettled "poison-settled" "room to acknowledge what is set aside" {
        Poison -> []: "it comes again and is set aside, as one copy";
    }
    PoisonGivenBack "poison-given-back" "room to give back what cannot be set aside yet" {
        PoisonNotKept -> []: "it comes again after the ack wait";
    }
    BatchSlot "batch-slot" "a free place for a batch" {
        Batch [spends] -> []: "delivered again after the ack wait, and that counts as an attempt of each";
    }
    BatchAttempted "batch-attempted" "the answer to a batch" {
        Batch [spends] -> [Subscriber]: "delivered again after the ack wait";
    }
    FailedSlot "failed-slot" "a place to deal with an event of a failed batch" {
        FailedBatch -> []: "retried after the ack wait instead of the backoff; attempts made so far stay counted";
    }
    LetterRead "letter-read" "a kept dead letter" {
        Redrive -> []: "it is still listed";
    }
    RedriveWaits "redrive-waits" "the next attempt of a redrive" {
        Redrive -> [Subscriber]: "it is still listed; redriven again, its retries begin anew";
    }
    LetterDeleted "letter-deleted" "a kept copy to be deleted whose event is safe" {
        Redrive -> [Subscriber]: "it is still listed although it was delivered; redriven again, the sink sees it twice";
        RedriveKept -> [Subscriber]: "there are two copies until the next redrive, which leaves one";
    }
    RedriveAnswered "redrive-answered" "room to tell who asked for a redrive" {
        Redrive -> []: "it is delivered, and no longer listed; whoever asked sees it when asking again";
    }
    DrainGivenBack "drain-given-back" "room to give back what a drain did not finish" {
        Drain -> []: "what it had out is delivered again after the ack wait, and not at once";
    }
    DrainFlushed "drain-flushed" "what was given back to leave" {
        Drain -> []: "the same";
    }
}
