//! What the kernel says of this process, under the names that all Prometheus clients use for it.

use std::fs;

use super::family::{Family, Kind};

/// Ticks of a second in `/proc`: the same on every Linux that Rust runs on, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// All that can be read; nothing where there is no `/proc`.
pub(super) fn families() -> Vec<Family> {
    let told = [
        told("process_cpu_seconds_total", Kind::Counter, "Processor time, user and system.", cpu_seconds()),
        told("process_resident_memory_bytes", Kind::Gauge, "Memory in use.", memory_bytes("VmRSS:")),
        told("process_virtual_memory_bytes", Kind::Gauge, "Memory that is mapped.", memory_bytes("VmSize:")),
        told("process_open_fds", Kind::Gauge, "File descriptors that are open.", open_fds()),
        told("process_max_fds", Kind::Gauge, "File descriptors that may be open.", max_fds()),
        told("process_start_time_seconds", Kind::Gauge, "When the process began, in Unix time.", start_time_seconds()),
    ];
    told.into_iter().flatten().collect()
}

fn told(name: &'static str, kind: Kind, help: &'static str, value: Option<f64>) -> Option<Family> {
    Some(Family::new(name, kind, help).with(vec![], value?))
}

/// Field `number` of `/proc/self/stat`, counted from 1 as in proc(5).
fn stat(number: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name of the program, which may hold spaces.
    let rest = &text[text.rfind(')')? + 1..];
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SECOND)
}

/// When this process began, in seconds since the Unix epoch.
pub(super) fn start_time_seconds() -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat(22)? / TICKS_PER_SECOND)
}

fn memory_bytes(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn open_fds() -> Option<f64> {
    // One of them is that of the reading itself.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(count as f64)
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Value;

    #[test]
    fn the_process_knows_itself() {
        let value = |name: &str| match families()
            .iter()
            .find(|family| family.name == name)
            .map(|f| f.points[0].value.clone())
        {
            Some(Value::Real(value)) => value,
            other => panic!("{name}: {other:?}"),
        };
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - 86_400.0..=now + 1.0).contains(&value("process_start_time_seconds")));
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
