//! Every `.await` on an event's way has a fault point, and so a row in the crash matrix; one that has none is listed here with the
//! reason. Held by reading the source, so that a new `.await` without a row fails.

use crate::architecture::sources;

/// Where events pass (beginnings of paths below `src/`).
const WAY: [&str; 11] = [
    "ingress/",
    "dispatch/",
    "channel/publish.rs",
    "channel/awaited.rs",
    "channel/pull.rs",
    "channel/ticket.rs",
    "channel/dead_letter.rs",
    "channel/pub_ack.rs",
    "channel/inbox.rs",
    "channel/wire/",
    "sink/into_channel.rs",
];

const INSIDE: &str = "what it leads to has points of its own";
const LIFE: &str = "tells JetStream only that an event is still at work; without it, it comes again";
const NO_EVENT: &str = "no event waits for it";

/// A file, parts of the statements that await something there, and why no fault point is needed; without parts, the whole file.
const BESIDE: &[(&str, &[&str], &str)] = &[
    ("ingress/mod.rs", &[], "the accept loop"),
    ("ingress/body.rs", &[], "inside `body-read` and `answer-ready`"),
    (
        "ingress/handler.rs",
        &["self.publish_all(", "Gate::answer(&gate", "self.take_in(", "self.store.publish_all("],
        INSIDE,
    ),
    ("ingress/handler.rs", &["self.authorize(", "oidc.subject("], "before the body is read: there is no event yet"),
    ("ingress/oidc/", &[], "before the body is read: there is no event yet"),
    ("channel/awaited.rs", &[], "counts the time; who waits is at `event-acknowledged`"),
    ("channel/publish.rs", &["self.store(", "self.publish("], INSIDE),
    ("channel/publish.rs", &["self.wire.send(write)"], "inside `event-sent`"),
    ("channel/publish.rs", &["end.await"], "inside `event-acknowledged`"),
    ("channel/publish.rs", &["self.missing.notified()"], NO_EVENT),
    ("channel/pull.rs", &["wire.send("], "inside `pull-asked`"),
    ("channel/pull.rs", &["self.poll_message("], "nothing is in hand before it ends, and then it is at `taken-in`"),
    ("channel/pull.rs", &["subscription.drain("], "what has come has not been looked at, as before `taken-in`"),
    ("channel/ticket.rs", &[], "inside the points of those who settle"),
    ("channel/dead_letter.rs", &["self.put_aside(", "self.store_once(", "self.publisher.store("], INSIDE),
    (
        "channel/dead_letter.rs",
        &["self.api.stored_message("],
        "looks on, between `event-acknowledged` and `settled`, and both of those sides have their faults",
    ),
    (
        "channel/dead_letter.rs",
        &["api.stream_info(", "api.update_stream(", "api.create_stream(", "api.subject_counts("],
        NO_EVENT,
    ),
    ("channel/wire/", &[], "all of the connection: `cut` ends it, and those who wait for it have points of their own"),
    ("dispatch/feed.rs", &[], "only looks on"),
    ("dispatch/pace.rs", &[], NO_EVENT),
    ("dispatch/slots.rs", &[], "inside `slot-taken`, `batch-slot`, `failed-slot` and those that wait"),
    ("dispatch/trail.rs", &[], "inside the points of those who send"),
    (
        "dispatch/attempt.rs",
        &[
            "self.settle_as(",
            "work.settle(",
            "work.settle_as(",
            "work.retry_after(",
            "work.come_again(",
            "answer(&context",
            "give_up(",
            "failed(",
            "persist(",
            "keep(context",
            "dead_letters.set_aside(",
            "dead_letters.keep(",
        ],
        INSIDE,
    ),
    ("dispatch/batch.rs", &["work.settle(", "stream::iter(each)", "attempt::failed("], INSIDE),
    ("dispatch/desk.rs", &["self.hold(", "in_progress()"], LIFE),
    ("dispatch/desk.rs", &["self.at_work.join_next()"], "a task has settled its events itself"),
    (
        "dispatch/desk.rs",
        &["stored.ticket.retry_after("],
        "the second delivery of an event whose first one was settled at `given-back`",
    ),
    ("dispatch/desk.rs", &["self.at_work.shutdown()"], "nothing is given back yet, as before `drain-given-back`"),
    (
        "dispatch/redrive.rs",
        &["control.listen(", "self.take(", "self.at_work.join_next()", "&untried", "Answer::Busy", "Answer::Working"],
        NO_EVENT,
    ),
    (
        "dispatch/redrive.rs",
        &["self.attempt(", "self.delete(", "attempt::run(", "batch::run(", "deliverer.deliver("],
        INSIDE,
    ),
    ("dispatch/redrive.rs", &["sleep(DELETE_WAIT)"], "between two tries of `letter-deleted`"),
    ("dispatch/redrive.rs", &["call.answer("], "inside `redrive-answered`"),
    (
        "dispatch/worker.rs",
        &[
            "self.pull(",
            "self.accept_all(",
            "self.take_over(",
            "self.accept(",
            "self.desk.take(",
            "self.desk.take_poison(",
            "self.finish(",
            "self.desk.clear()",
            "self.look_around(",
            "self.look_for_missing(",
            "self.look_closer(",
        ],
        INSIDE,
    ),
    ("dispatch/worker.rs", &["self.desk.sign_work()"], LIFE),
    (
        "dispatch/worker.rs",
        &["consumer.adopt_orphans(", "consumer.unsettled(", "puller.next()", "puller.stop()", "consumer.ask_again("],
        "a pinned consumer changes hands: what has come has not been looked at, as before `taken-in`",
    ),
    (
        "dispatch/worker.rs",
        &[
            "self.connected(",
            "link.wait_for(",
            "self.meanwhile(",
            "self.make_sure(",
            "consumer.gives(",
            "plan.consumer.silence(",
            "plan.consumer.unpin(",
            "lost.await",
            "pending::<()>()",
        ],
        NO_EVENT,
    ),
    ("sink/into_channel.rs", &["self.publisher."], INSIDE),
];

/// What each `.await` of a code belongs to, back to the statement's beginning.
fn awaits(code: &str) -> Vec<String> {
    let own = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let begins = |before: &str| before.ends_with([';', '{', '}']) || before.ends_with("=>");
    let is_word =
        |at: usize| !own[at + ".await".len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
    own.match_indices(".await")
        .filter(|(at, _)| is_word(*at))
        .map(|(at, word)| {
            let begin = (0..at).rev().find(|begin| own.is_char_boundary(*begin) && begins(&own[..*begin])).unwrap_or(0);
            own[begin..at + word.len()].split_whitespace().collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn has_point(statement: &str) -> bool {
    statement
        .match_indices("at(")
        .any(|(at, _)| !statement[..at].ends_with(|c: char| c.is_alphanumeric() || "_:.".contains(c)))
}

#[test]
fn the_reader_of_this_test_reads_awaits() {
    let code = "fn a() { b().await; let x = at(\n Point::X,\n c(),\n).await?; x => d::at(e).await, }\n#[cfg(test)]\nmod tests { f().await }";
    let found = awaits(code);
    assert_eq!(found, ["b().await", "let x = at( Point::X, c(), ).await", "d::at(e).await"]);
    assert_eq!(found.iter().map(|one| has_point(one)).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn every_await_on_an_events_way_has_a_point_or_a_reason() {
    let mut used = vec![false; BESIDE.iter().map(|(_, parts, _)| parts.len().max(1)).sum()];
    let mut unlisted = Vec::new();
    let is_for_tests = |path: &str| path.ends_with("tests.rs") || path.contains("/simulation/");
    let is_on_the_way = |path: &str| WAY.iter().any(|place| path.starts_with(place)) && !is_for_tests(path);
    for source in sources().iter().filter(|source| is_on_the_way(&source.path)) {
        for statement in awaits(&source.code).iter().filter(|statement| !has_point(statement)) {
            let mut number = 0;
            let mut is_listed = false;
            for (file, parts, _) in BESIDE {
                for part in if parts.is_empty() { &[""][..] } else { parts } {
                    let fits = source.path.starts_with(file) && statement.contains(part);
                    used[number] |= fits;
                    is_listed |= fits;
                    number += 1;
                }
            }
            if !is_listed {
                unlisted.push(format!("src/{}: {statement}", source.path));
            }
        }
    }
    assert!(unlisted.is_empty(), "wrap it in fault_point::at, or say here why not:\n{}", unlisted.join("\n"));
    let parts = BESIDE.iter().flat_map(|(file, parts, _)| {
        if parts.is_empty() { &[""][..] } else { parts }.iter().map(move |part| (file, part))
    });
    let stale: Vec<_> = parts.zip(used).filter(|(_, used)| !used).map(|(listed, _)| listed).collect();
    assert!(stale.is_empty(), "nothing is awaited there any more: {stale:?}");
}
