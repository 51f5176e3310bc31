//! Which events a subscription wants: `filters` and `filter` of Triggers, and the annotation `knats.dev/filters` that says
//! the same for Subscriptions.

use serde_json::Value;

use crate::filter::{self, Filter};
use crate::resource::controls::Annotation;
use crate::resource::manifest;
use crate::resource::reader::{At, Fields};

const EXPECTED: &str = r#"YAML text of a list of filters, such as "[{exact: {type: com.example.order}}]""#;

/// Knative's rule: `filters` that are not empty count alone, else `filter`. The annotation stands for `filters`.
pub(super) fn of_trigger(spec: &mut Fields<'_>, annotations: &[Annotation<'_>]) -> Option<Filter> {
    let (older, filters) = (spec.take("filter"), spec.take("filters"));
    let attributes = older.as_ref().and_then(read_filter);
    let filters = filters.filter(|at| !is_empty_list(at.value()));
    if let (Some(_), Some(annotation)) = (&filters, annotation(annotations)) {
        annotation.fault("spec.filters is there already, expected one of the two");
    }
    let list = match filters {
        Some(at) => compile(&at, at.value(), Filter::compile),
        None => of_annotation(annotations),
    };
    if let (Some(_), Some(older)) = (&list, older) {
        older.has_no_effect();
    }
    list.or(attributes)
}

/// `knats.dev/filters`; an empty list is none.
pub(super) fn of_annotation(annotations: &[Annotation<'_>]) -> Option<Filter> {
    let at = annotation(annotations)?;
    let list = match manifest::nested(at.string()?) {
        Ok(list @ Value::Array(_)) => list,
        Ok(_) => {
            at.fault(format!("is no list, expected {EXPECTED}"));
            return None;
        }
        Err(error) => {
            at.fault(format!("{error}; expected {EXPECTED}"));
            return None;
        }
    };
    if is_empty_list(&list) { None } else { compile(at, &list, Filter::compile) }
}

fn annotation<'s, 'a>(annotations: &'s [Annotation<'a>]) -> Option<&'s At<'a>> {
    annotations.iter().find(|annotation| annotation.name == "filters").map(|annotation| &annotation.at)
}

/// The older `filter`, which has exact values of attributes only.
fn read_filter(at: &At<'_>) -> Option<Filter> {
    at.object(|filter| {
        let attributes = filter.take("attributes")?;
        if attributes.value().as_object().is_some_and(serde_json::Map::is_empty) {
            return None;
        }
        compile(&attributes, attributes.value(), Filter::from_attributes)
    })?
}

fn is_empty_list(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

fn compile(at: &At<'_>, value: &Value, compile: fn(&Value) -> Result<Filter, Vec<filter::Fault>>) -> Option<Filter> {
    let compiled = compile(value);
    for fault in compiled.as_ref().err().into_iter().flatten() {
        at.fault_below(&fault.path, fault.message.as_str());
    }
    compiled.ok()
}
