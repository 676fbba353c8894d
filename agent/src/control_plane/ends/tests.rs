use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn end(name: &str, from: SystemTime, days: u32) -> End {
    End {
        name: name.to_owned(),
        fingerprint: format!("{name}-fingerprint"),
        from,
        at: from + DAY * days,
    }
}

#[test]
fn reminds_once_a_day_by_the_wall_from_thirty_days_ahead() {
    let start = SystemTime::UNIX_EPOCH + DAY * 20_000;
    let ends = [end("root", start, 365), end("other", start, 3650)];
    let mut reminder = Reminder::default();
    assert_eq!(reminder.due(&ends, start), None);
    assert_eq!(reminder.due(&ends, start + DAY * 334), None);
    let told = reminder.due(&ends, start + DAY * 335).unwrap();
    assert_eq!(
        told,
        "root (root-fingerprint) ends in 30 days, 2025-10-04T00:00:00Z: nothing that hangs on it lives longer"
    );
    assert_eq!(reminder.due(&ends, start + DAY * 336 - Duration::from_secs(1)), None);
    assert!(reminder.due(&ends, start + DAY * 336).is_some());
    // Set back, the clock does not silence it for as long.
    assert!(reminder.due(&ends, start + DAY * 335).is_some());
    let told = reminder.due(&ends, start + DAY * 366).unwrap();
    assert!(told.starts_with("root (root-fingerprint) has ended, 2025-"), "{told}");
}

#[test]
fn what_lives_briefly_is_told_in_its_last_quarter() {
    let start = SystemTime::UNIX_EPOCH;
    let ends = [end("brief", start, 8)];
    assert_eq!(Reminder::default().due(&ends, start + DAY * 5), None);
    assert!(Reminder::default().due(&ends, start + DAY * 6).is_some());
}

#[test]
fn metrics_tell_how_long_each_lives() {
    let (ends, mut registry) = (Ends::default(), Registry::with_prefix("p"));
    registry.register_collector(Box::new(ends.clone()));
    let now = SystemTime::now();
    ends.authorities(vec![end("a", now, 10), end("b", now - DAY * 3, 1)], vec![end("c", now, 5)]);
    ends.serving(now + DAY);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let value = |series: &str| -> i64 {
        let line = text.lines().find(|line| line.starts_with(series));
        let line = line.unwrap_or_else(|| panic!("{series} is not in {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let day = 24 * 3600;
    for (series, days) in [
        ("p_root_expiry_seconds{root=\"a-fingerprint\",signs=\"true\"}", 10),
        ("p_root_expiry_seconds{root=\"b-fingerprint\",signs=\"false\"}", -2),
        ("p_intermediate_expiry_seconds{certificate=\"c-fingerprint\"}", 5),
        ("p_serving_expiry_seconds", 1),
    ] {
        assert!((value(series) - days * day).abs() < 60, "{series}: {}", value(series));
    }
}
