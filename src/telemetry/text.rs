//! Families as text: in the OpenMetrics format, and in the older one that every scraper of Prometheus reads.

use std::fmt::Write as _;

use super::family::{Family, Kind, Labels, Observed, Value};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
}

impl Format {
    /// What an `Accept` header asks for. OpenMetrics has to be asked for by its name.
    pub fn accepted(accept: &str) -> Self {
        let quality = |range: &str| {
            let mut parameters = range.split(';').skip(1).map(str::trim);
            parameters
                .find_map(|parameter| parameter.strip_prefix("q="))
                .map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0))
        };
        let of = |media_type: &str| {
            let is =
                |range: &&str| range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(media_type));
            accept.split(',').filter(is).map(quality).fold(0.0, f32::max)
        };
        let open = of("application/openmetrics-text");
        if open > 0.0 && open >= of("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes all of them.
pub fn write(families: &[Family], format: Format) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = try_write(families, format, &mut text);
    text
}

fn try_write(families: &[Family], format: Format, text: &mut String) -> std::fmt::Result {
    for family in families {
        let Family { name, help, kind, points } = family;
        let named = match (format, kind) {
            // OpenMetrics names the family, and the older format the samples.
            (Format::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(text, "# HELP {named} {help}\n# TYPE {named} {kind}")?;
        if let (Format::OpenMetrics, Some(unit)) = (format, unit(named)) {
            writeln!(text, "# UNIT {named} {unit}")?;
        }
        for point in points {
            match &point.value {
                Value::Whole(value) => sample(text, name, &point.labels, None, value)?,
                Value::Real(value) => sample(text, name, &point.labels, None, value)?,
                Value::Histogram(observed) => histogram(text, name, &point.labels, observed)?,
            }
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    Ok(())
}

/// The unit that a name ends in.
fn unit(name: &str) -> Option<&'static str> {
    ["seconds", "bytes"].into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')))
}

fn histogram(text: &mut String, name: &str, labels: &Labels, observed: &Observed) -> std::fmt::Result {
    let bucket = format!("{name}_bucket");
    let mut count = 0;
    // `{:?}` writes 1.0 and not 1, which is how OpenMetrics wants it.
    let bounds = observed.bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
    for (bound, more) in bounds.zip(&observed.counts) {
        count += more;
        sample(text, &bucket, labels, Some(&bound), &count)?;
    }
    sample(text, &format!("{name}_sum"), labels, None, &observed.sum)?;
    sample(text, &format!("{name}_count"), labels, None, &count)
}

fn sample(
    text: &mut String,
    name: &str,
    labels: &Labels,
    bound: Option<&str>,
    value: &dyn std::fmt::Display,
) -> std::fmt::Result {
    text.push_str(name);
    let labels = labels.iter().map(|(name, value)| (*name, value.as_ref())).chain(bound.map(|bound| ("le", bound)));
    let mut separator = '{';
    for (name, value) in labels {
        write!(text, "{separator}{name}=\"")?;
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let observed = Observed { bounds: vec![0.005, 1.0], counts: vec![1, 2, 3], sum: 7.5 };
        vec![
            Family::new("a_total", Kind::Counter, "Counts.")
                .with(vec![("x", "a\\b\"c\nd".into()), ("y", "".into())], 3_u64),
            Family::new("b_seconds", Kind::Histogram, "Takes.").with(vec![("x", "1".into())], observed),
            Family::new("c", Kind::Gauge, "Stands.").with(vec![], 0.5),
        ]
    }

    #[test]
    fn both_formats_are_as_their_specifications_say() {
        let samples = |total: &str, unit: &str, end: &str| {
            format!(
                "# HELP {total} Counts.\n# TYPE {total} counter\na_total{{x=\"a\\\\b\\\"c\\nd\",y=\"\"}} 3\n\
                 # HELP b_seconds Takes.\n# TYPE b_seconds histogram\n{unit}\
                 b_seconds_bucket{{x=\"1\",le=\"0.005\"}} 1\nb_seconds_bucket{{x=\"1\",le=\"1.0\"}} 3\n\
                 b_seconds_bucket{{x=\"1\",le=\"+Inf\"}} 6\nb_seconds_sum{{x=\"1\"}} 7.5\nb_seconds_count{{x=\"1\"}} 6\n\
                 # HELP c Stands.\n# TYPE c gauge\nc 0.5\n{end}"
            )
        };
        assert_eq!(write(&families(), Format::Prometheus), samples("a_total", "", ""));
        assert_eq!(write(&families(), Format::OpenMetrics), samples("a", "# UNIT b_seconds seconds\n", "# EOF\n"));
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let check = |accept, expected| assert_eq!(Format::accepted(accept), expected, "{accept}");
        check("", Format::Prometheus);
        check("*/*", Format::Prometheus);
        check("text/plain;version=0.0.4", Format::Prometheus);
        check("application/openmetrics-text; version=1.0.0", Format::OpenMetrics);
        check(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            Format::OpenMetrics,
        );
        check("application/openmetrics-text;q=0.1, text/plain;q=0.9", Format::Prometheus);
        check("application/openmetrics-text;q=0", Format::Prometheus);
    }
}
