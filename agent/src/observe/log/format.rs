//! How a line looks.

mod text;

use std::fmt;

use serde::ser::{SerializeMap as _, Serializer as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The shape of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Tab separated, for people.
    #[default]
    Text,
    /// An object a line, for machines.
    Json,
}

/// Formats events; `T` tells the time.
pub(super) struct LineFormat<T> {
    format: Format,
    time: T,
}

impl<T> LineFormat<T> {
    pub(super) fn new(format: Format, time: T) -> Self {
        Self { format, time }
    }
}

impl<S, N, T> FormatEvent<S, N> for LineFormat<T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    T: FormatTime,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self.format {
            Format::Text => text::write(&self.time, context, &mut writer, event),
            Format::Json => self.json(context, &mut writer, event),
        }
    }
}

impl<T: FormatTime> LineFormat<T> {
    fn json<S, N>(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: &mut Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let mut time = String::new();
        self.time.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = fields.log_target.take().unwrap_or_else(|| metadata.target().to_owned());
        let line = Line {
            time,
            level: level_name(*metadata.level()),
            scope: scope(&target).to_owned(),
            spans: spans(context)?,
            fields,
        };
        let text = line.to_json().map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// Our own targets go without the crate's name.
fn scope(target: &str) -> &str {
    target.strip_prefix("sotto::").unwrap_or(target)
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The spans around an event, as `inbound{id=7}:relay`.
fn spans<S, N>(context: &FmtContext<'_, S, N>) -> Result<String, fmt::Error>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    use fmt::Write as _;
    let mut text = String::new();
    for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
        if !text.is_empty() {
            text.push(':');
        }
        text.push_str(span.name());
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>().filter(|f| !f.is_empty()) {
            write!(text, "{{{fields}}}")?;
        }
    }
    Ok(text)
}

struct Line {
    time: String,
    level: &'static str,
    scope: String,
    spans: String,
    fields: Fields,
}

impl Line {
    fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut bytes = Vec::with_capacity(512);
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("level", self.level)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("scope", &self.scope)?;
        map.serialize_entry("message", &self.fields.message)?;
        if !self.spans.is_empty() {
            map.serialize_entry("spans", &self.spans)?;
        }
        for (name, value) in &self.fields.rest {
            match value {
                Value::Text(text) => map.serialize_entry(name, text)?,
                Value::Json(value) => map.serialize_entry(name, value)?,
            }
        }
        map.end()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A line stays a line, whatever a peer made us log.
fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(|c: char| c.is_control()) {
        let escaped = text.chars().flat_map(|c| {
            let escape = c.is_control();
            c.escape_default().filter(move |_| escape).chain((!escape).then_some(c))
        });
        escaped.collect::<String>().into()
    } else {
        text.into()
    }
}

enum Value {
    Text(String),
    /// A number or a boolean.
    Json(serde_json::Value),
}

#[derive(Default)]
struct Fields {
    message: String,
    /// The target of an event that came through the `log` crate.
    log_target: Option<String>,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            ("log.target", Value::Text(text)) => self.log_target = Some(text),
            ("log.module_path" | "log.file" | "log.line", _) => {}
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::Text(crate::error::chain(value)));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Json(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Json(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Json(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Json(value.into()));
    }
}
