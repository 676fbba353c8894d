//! Timestamps as the API writes them, and ages as kubectl shows them.

use k8s_openapi::jiff::Timestamp;

/// Now, in whole seconds: `2024-05-01T12:00:00Z`.
pub(super) fn now() -> String {
    format(Timestamp::now())
}

/// A moment that many seconds from now.
pub(super) fn after(seconds: i64) -> String {
    format(Timestamp::from_second(unix_now() + seconds).unwrap_or(Timestamp::MAX))
}

/// Seconds since 1970.
pub(super) fn unix_now() -> i64 {
    Timestamp::now().as_second()
}

fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How long ago that was, as `5m30s`; `<unknown>` if it does not parse.
pub(super) fn age(since: &str) -> String {
    match since.parse::<Timestamp>() {
        Ok(since) => human(unix_now() - since.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// At most two units, the second one only while the first is small, as kubectl does.
fn human(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () => two(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_in_kubectl() {
        let ages: Vec<String> =
            [0, 119, 120, 330, 3600, 10800, 90000, 172_800, 864_000].map(human).to_vec();
        assert_eq!(ages, ["0s", "119s", "2m", "5m30s", "60m", "3h", "25h", "2d", "10d"]);
    }

    #[test]
    fn timestamps_have_whole_seconds() {
        let now = now();
        assert_eq!(now.len(), "2024-05-01T12:00:00Z".len(), "{now}");
        assert_eq!(age(&now), "0s");
    }
}
