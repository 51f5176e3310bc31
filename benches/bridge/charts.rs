//! Owns the charts: bars, drawn as SVG on a ground of their own, so that they can be read on a light page and on a dark one.

use std::fmt::Write as _;
use std::path::Path;

use super::bare;
use super::program::{KNATS, STRAIGHTFORWARD};
use super::report::{CPU, Report, Spread, number};
use super::works::{BACKLOG, DELIVERIES, EMPTY, IDLE, PER_DELIVERY, RATE_WORK, REPLICAS, UNRELATED};

const PROGRAMS: [&str; 4] = [STRAIGHTFORWARD, KNATS, bare::HTTP, bare::PUBLISHER];
/// All in pixels: the picture, where bars begin and end, a bar and the gap below it, a gap between groups, and what is above and
/// below them.
const WIDTH: usize = 760;
const LEFT: f64 = 270.0;
const RIGHT: f64 = 690.0;
const BAR: usize = 16;
const ROW: usize = 22;
const GAP: usize = 10;
const TOP: usize = 50;
const BOTTOM: usize = 44;
const GROUND: &str = "#ffffff";
const TEXT: &str = "#1f2937";
const LINES: &str = "#d1d5db";
const OURS: &str = "#3b82f6";
const OTHERS: &str = "#9ca3af";

/// Groups of bars, all of one unit.
struct Chart {
    title: &'static str,
    unit: &'static str,
    groups: Vec<Group>,
}

struct Group {
    name: String,
    bars: Vec<Bar>,
}

struct Bar {
    label: String,
    spread: Spread,
    ours: bool,
}

/// Writes each chart for which something was measured.
pub fn write(report: &Report, directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let charts = [
        ("cpu", cpu(report)),
        ("latency", latency(report)),
        ("fan-out", fan_out(report)),
        ("unrelated", unrelated(report)),
        ("memory", memory(report)),
        ("replicas", replicas(report)),
    ];
    for (name, mut chart) in charts {
        chart.groups.retain(|group| !group.bars.is_empty());
        if !chart.groups.is_empty() {
            std::fs::write(directory.join(format!("{name}.svg")), chart.draw()).unwrap();
        }
    }
}

fn cpu(report: &Report) -> Chart {
    let works = ["ingest", "deliver", "both", RATE_WORK, "ingest by 100", "deliver by 100"];
    let groups = works.map(|work| by_program(report, work, work, CPU)).into();
    Chart {
        title: "Processor time of the program for each event",
        unit: "µs of one processor; shorter is better",
        groups,
    }
}

fn latency(report: &Report) -> Chart {
    let figures = [("half of them within", "p50 ms"), ("99 of 100 within", "p99 ms")];
    let groups = figures.map(|(name, what)| by_program(report, RATE_WORK, name, what)).into();
    Chart { title: "From the source to the sink at 2,000 events/s", unit: "milliseconds; shorter is better", groups }
}

fn fan_out(report: &Report) -> Chart {
    let bars = DELIVERIES.map(|(work, subscriptions)| (subscriptions.to_string(), work, PER_DELIVERY));
    Chart {
        title: "Processor time of the bridge for each delivery, by subscriptions of the channel",
        unit: "µs of one processor; equal bars: each subscription costs its deliveries alone",
        groups: vec![group(report, "subscriptions", &bars)],
    }
}

fn unrelated(report: &Report) -> Chart {
    let bars = |what: &'static str| UNRELATED.map(|(work, busy)| (format!("{busy} busy"), work, what));
    Chart {
        title: "From source to sink on a channel beside one with busy subscriptions",
        unit: "milliseconds; shorter is better",
        groups: vec![
            group(report, "half of them within", &bars("p50 ms")),
            group(report, "99 of 100 within", &bars("p99 ms")),
        ],
    }
}

fn memory(report: &Report) -> Chart {
    let highest = "memory MiB";
    let works = ["ingest", "ingest by 100", "deliver", "both"];
    let mut groups = vec![group(report, "nothing to do", &[(KNATS.to_owned(), BACKLOG, EMPTY)])];
    groups.push(by_program(report, IDLE, "idle subscriptions", highest));
    groups.extend(works.map(|work| by_program(report, work, work, highest)));
    groups.push(by_program(report, BACKLOG, BACKLOG, highest));
    Chart { title: "Resident memory of the program, at most", unit: "MiB", groups }
}

fn replicas(report: &Report) -> Chart {
    let groups = REPLICAS.map(|(work, _)| by_program(report, work, work, "events/s"));
    Chart {
        title: "Events stored on a stream with three replicas",
        unit: "events/s; longer is better",
        groups: groups.into(),
    }
}

/// A bar for each program that did the work.
fn by_program(report: &Report, work: &'static str, name: &str, what: &'static str) -> Group {
    let bars = PROGRAMS.into_iter().filter_map(|program| {
        let spread = report.spread_of(work, program, what)?;
        Some(Bar { label: program.to_owned(), spread, ours: program == KNATS })
    });
    Group { name: name.to_owned(), bars: bars.collect() }
}

/// A bar of the bridge's for each label, work and figure.
fn group(report: &Report, name: &str, bars: &[(String, &'static str, &'static str)]) -> Group {
    let bars = bars.iter().filter_map(|(label, work, what)| {
        let spread = report.spread_of(work, KNATS, what)?;
        Some(Bar { label: label.clone(), spread, ours: true })
    });
    Group { name: name.to_owned(), bars: bars.collect() }
}

impl Chart {
    fn draw(&self) -> String {
        let rows: usize = self.groups.iter().map(|group| group.bars.len() * ROW + GAP).sum();
        let height = TOP + rows + BOTTOM;
        let most = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.spread.high).fold(0.0, f64::max);
        let scale = Scale::up_to(most);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             role=\"img\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{TEXT}\">\n<title>{}</title>\n\
             <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{GROUND}\"/>\n\
             <text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
            self.title, self.title
        );
        scale.draw(&mut svg, TOP, TOP + rows);
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-style=\"italic\">{}</text>", height - 10, self.unit);
        let mut y = TOP + GAP / 2;
        for group in &self.groups {
            let _ = writeln!(svg, "<text x=\"16\" y=\"{}\">{}</text>", y + BAR - 3, group.name);
            for bar in &group.bars {
                bar.draw(&mut svg, &scale, y);
                y += ROW;
            }
            y += GAP;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Bar {
    /// The median as a bar, the rounds from smallest to largest as a line through its end.
    fn draw(&self, svg: &mut String, scale: &Scale, y: usize) {
        let Spread { low, median, high } = self.spread;
        let (end, middle, base) = (scale.x(median), y + BAR / 2, y + BAR - 3);
        let colour = if self.ours { OURS } else { OTHERS };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"{TEXT}\"/>\
             <text x=\"{:.1}\" y=\"{base}\">{}</text>",
            LEFT - 8.0,
            self.label,
            end - LEFT,
            scale.x(low),
            scale.x(high),
            scale.x(high) + 6.0,
            number(median)
        );
    }
}

/// The axis, from nothing to a round number.
struct Scale {
    step: f64,
    steps: usize,
}

impl Scale {
    /// At most six steps of 1, 2 or 5 times a power of ten.
    fn up_to(most: f64) -> Self {
        const STEPS: f64 = 6.0;
        let most = if most > 0.0 { most } else { 1.0 };
        let power = 10_f64.powf((most / STEPS).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| step * STEPS >= most);
        let step = step.unwrap_or(most);
        Self { step, steps: (most / step).ceil() as usize }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / (self.step * self.steps as f64) * (RIGHT - LEFT)
    }

    fn draw(&self, svg: &mut String, top: usize, bottom: usize) {
        for step in 0..=self.steps {
            let value = self.step * step as f64;
            let x = self.x(value);
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"{LINES}\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 14,
                // As many digits as the step has.
                (value * 1000.0).round() / 1000.0
            );
        }
    }
}
