//! Lines for people. Each connection ends with one, so fields go straight into one string.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{level_name, one_line, scope, spans};

/// Writes an event as one line.
pub(super) fn write<S, N>(
    time: &impl FormatTime,
    context: &FmtContext<'_, S, N>,
    writer: &mut Writer<'_>,
    event: &Event<'_>,
) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let target = fields.log_target.as_deref().unwrap_or_else(|| metadata.target());
    time.format_time(writer)?;
    write!(writer, "\t{}\t{}", level_name(*metadata.level()), scope(target))?;
    let spans = spans(context)?;
    if !spans.is_empty() {
        write!(writer, ":{}", one_line(&spans))?;
    }
    writeln!(writer, "\t{}{}", one_line(&fields.message), fields.rest)
}

#[derive(Default)]
struct Fields {
    message: String,
    /// The target of an event that came through the `log` crate.
    log_target: Option<String>,
    /// All others, as they are written.
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let separator = if self.rest.is_empty() { '\t' } else { ' ' };
        let start = self.rest.len();
        // Writing to a String fails only if a value cannot print itself, and then there is nothing to tell.
        let written = write!(self.rest, "{separator}{}={value}", field.name());
        if written.is_err() {
            self.rest.truncate(start);
        }
    }

    /// A value that prints itself, which may be over several lines.
    fn add_plain(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let start = self.rest.len();
        self.add(field, value);
        // The separator may be a control character itself.
        let from = (start + 1).min(self.rest.len());
        if let std::borrow::Cow::Owned(escaped) = one_line(&self.rest[from..]) {
            self.rest.replace_range(from.., &escaped);
        }
    }

    /// Whether a field is not one of the rest.
    fn takes(&mut self, field: &Field, value: fmt::Arguments<'_>) -> bool {
        match field.name() {
            "message" => self.message = value.to_string(),
            "log.target" => self.log_target = Some(value.to_string()),
            "log.module_path" | "log.file" | "log.line" => {}
            _ => return false,
        }
        true
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.takes(field, format_args!("{value:?}")) {
            self.add_plain(field, format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !self.takes(field, format_args!("{value}")) {
            self.add(field, format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &crate::error::chain(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !self.takes(field, format_args!("{value}")) {
            self.add(field, format_args!("{value}"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, format_args!("{value:?}"));
    }
}
