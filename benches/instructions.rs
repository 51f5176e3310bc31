//! Does one case of the codec or the policy a given number of times, to be counted from outside: `scripts/instructions`.
//! Without arguments it names the cases.

#![allow(clippy::panic)]

mod cases;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let cases = cases::all();
    let Some(name) = arguments.next() else {
        for case in cases {
            println!("{}", case.name);
        }
        return;
    };
    let times: u32 = arguments.next().and_then(|times| times.parse().ok()).unwrap_or(1);
    let case = cases.iter().find(|case| case.name == name);
    let work = case.map_or_else(|| panic!("no case {name}"), |case| &case.work);
    for _ in 0..times {
        work();
    }
}
