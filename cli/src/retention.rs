//! Rules for the versions that `prune` keeps, as those of `restic forget`.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// Maximum number of versions that a rule keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// The rule is not used.
    #[default]
    None,
    /// Up to this many.
    Some(u32),
    /// All of them.
    Unlimited,
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(0) => Ok(Self::None),
            Ok(number) => Ok(Self::Some(number)),
            Err(_) if text == "unlimited" => Ok(Self::Unlimited),
            Err(_) => Err("must be a number, or unlimited".to_owned()),
        }
    }
}

impl Count {
    /// Takes one, and returns false if none is left.
    fn take(&mut self) -> bool {
        match self {
            Self::None | Self::Some(0) => false,
            Self::Some(left) => {
                *left -= 1;
                true
            }
            Self::Unlimited => true,
        }
    }
}

/// A span of time, such as `1y6m7d12h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    years: u16,
    months: u16,
    days: u16,
    hours: u16,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
            .filter(|span| *span != Self::default())
            .ok_or_else(|| "must be a span such as 1y6m7d12h".to_owned())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [
            (self.years, 'y'),
            (self.months, 'm'),
            (self.days, 'd'),
            (self.hours, 'h'),
        ] {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Span {
    fn parse(mut text: &str) -> Option<Self> {
        let mut span = Self::default();
        while !text.is_empty() {
            let end = text.find(|c: char| !c.is_ascii_digit())?;
            let (number, rest) = text.split_at(end);
            let unit = rest.chars().next()?;
            let part = match unit {
                'y' => &mut span.years,
                'm' => &mut span.months,
                'd' => &mut span.days,
                'h' => &mut span.hours,
                _ => return None,
            };
            *part = part.checked_add(number.parse().ok()?)?;
            text = &rest[1..];
        }
        Some(span)
    }

    /// Returns the time that is this span before `time`. A day that the month does not have is one of
    /// the next month.
    fn before(self, time: &ZonedDateTime) -> Option<ZonedDateTime> {
        let months = i32::from(self.years) * 12 + i32::from(self.months);
        let days = i32::from(time.day()) - 1 - i32::from(self.days);
        let date = time.date().first_of_month();
        let months = jiff::Span::new().try_months(months).ok()?;
        let days = jiff::Span::new().try_days(days).ok()?;
        let date = date.checked_sub(months).ok()?.checked_add(days).ok()?;
        let time = time.with().date(date).build().ok()?;
        let hours = SignedDuration::from_hours(self.hours.into());
        time.checked_sub(hours).ok()
    }
}

/// The rules. A version is kept if one of them keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest versions.
    pub last: Count,
    /// The newest version of each hour, for the last hours that have one.
    pub hourly: Count,
    /// The same for days.
    pub daily: Count,
    /// The same for weeks, which begin on Mondays.
    pub weekly: Count,
    /// The same for months.
    pub monthly: Count,
    /// All versions of this span before the newest.
    pub within: Option<Span>,
}

/// Returns the number of a period of the calendar: equal for two times in the same one.
type Period = fn(&ZonedDateTime, usize) -> (i16, i16);

/// The versions that are left to a rule, its period, its name, and the period of the last version that it kept.
type Rule = (Count, Period, &'static str, Option<(i16, i16)>);

fn hour(time: &ZonedDateTime, _: usize) -> (i16, i16) {
    // At the end of daylight saving time the clock shows two different hours the same. `restic`
    // counts them as one too.
    (
        time.year(),
        time.day_of_year() * 24 + i16::from(time.hour()),
    )
}

fn day(time: &ZonedDateTime, _: usize) -> (i16, i16) {
    (time.year(), time.day_of_year())
}

fn week(time: &ZonedDateTime, _: usize) -> (i16, i16) {
    let week = time.date().iso_week_date();
    (week.year(), week.week().into())
}

fn month(time: &ZonedDateTime, _: usize) -> (i16, i16) {
    (time.year(), time.month().into())
}

/// A period for each version.
fn version(_: &ZonedDateTime, number: usize) -> (i16, i16) {
    // Only the difference from the previous number counts.
    (i16::from(number.is_multiple_of(2)), 0)
}

impl Policy {
    /// Returns true if no rule keeps anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the reasons to keep each of the versions with these `times`, newest first: none for a
    /// version to remove. Hours, days, weeks and months are those of the zone of each time. `now` is
    /// the time of the run: a version of a later time is not the one from which `within` counts.
    pub fn apply(&self, times: &[ZonedDateTime], now: Timestamp) -> Vec<Vec<String>> {
        let newest = times.iter().find(|time| time.timestamp() <= now);
        // If all are later, they are all kept.
        let newest = newest.or(times.last());
        let within = self.within.zip(newest);
        // Without a result, the span reaches beyond all dates.
        let within = within.map(|(span, newest)| (span, span.before(newest)));
        let mut rules: [Rule; 5] = [
            (self.last, version, "last", None),
            (self.hourly, hour, "hourly", None),
            (self.daily, day, "daily", None),
            (self.weekly, week, "weekly", None),
            (self.monthly, month, "monthly", None),
        ];
        let mut reasons = Vec::with_capacity(times.len());
        for (number, time) in times.iter().enumerate() {
            let mut kept = Vec::new();
            if let Some((span, begin)) = &within
                && begin.as_ref().is_none_or(|begin| time > begin)
            {
                kept.push(format!("within {span}"));
            }
            // The oldest version is kept while a rule has some left: history stays as long as it can.
            let is_oldest = number + 1 == times.len();
            for (left, period, name, previous) in &mut rules {
                let current = Some(period(time, number));
                let is_new = current != *previous;
                if (is_new || is_oldest) && left.take() {
                    *previous = current;
                    let name = if is_new { "" } else { "oldest " }.to_owned() + name;
                    kept.push(name);
                }
            }
            reasons.push(kept);
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::{TimeZone, offset};

    use super::*;

    fn count(text: &str) -> Count {
        text.parse().expect("a valid count")
    }

    /// The versions of the example in the documentation of `restic forget`, newest first.
    const TIMES: [&str; 11] = [
        "2025-05-02T23:00Z",
        "2025-05-02T11:00Z",
        "2025-05-01T11:00Z",
        "2025-04-29T11:00Z",
        "2025-04-28T11:00Z",
        "2025-04-25T23:00Z",
        "2025-04-25T11:00Z",
        "2025-04-24T11:00Z",
        "2025-04-23T11:00Z",
        "2025-04-22T11:00Z",
        "2025-04-21T11:00Z",
    ];
    const NOW: &str = "2025-05-03T00:00Z";

    fn timestamp(text: &str) -> Timestamp {
        text.parse().expect("a valid time")
    }

    fn zoned(times: &[&str], zone: &TimeZone) -> Vec<ZonedDateTime> {
        let times = times.iter().map(|text| timestamp(text));
        times
            .map(|time| time.to_zoned_datetime(zone.clone()))
            .collect()
    }

    fn apply(policy: Policy, times: &[&str]) -> Vec<Vec<String>> {
        policy.apply(&zoned(times, &TimeZone::UTC), timestamp(NOW))
    }

    /// The numbers of the versions that are kept.
    fn kept(policy: Policy, times: &[&str]) -> Vec<usize> {
        numbers(&apply(policy, times))
    }

    fn numbers(reasons: &[Vec<String>]) -> Vec<usize> {
        let kept = reasons.iter().enumerate().filter(|(_, it)| !it.is_empty());
        kept.map(|(number, _)| number).collect()
    }

    #[test]
    fn keeps_the_newest_of_each_period_that_has_a_version() {
        let daily = Policy {
            daily: count("5"),
            ..Policy::default()
        };
        assert_eq!(kept(daily, &TIMES), [0, 2, 3, 4, 5]);
        let last = Policy {
            last: count("3"),
            ..Policy::default()
        };
        assert_eq!(kept(last, &TIMES), [0, 1, 2]);
        let weekly = Policy {
            weekly: count("2"),
            ..Policy::default()
        };
        assert_eq!(kept(weekly, &TIMES), [0, 5]);
        let monthly = Policy {
            monthly: count("2"),
            ..Policy::default()
        };
        assert_eq!(kept(monthly, &TIMES), [0, 3]);
        let hourly = Policy {
            hourly: count("2"),
            ..Policy::default()
        };
        assert_eq!(kept(hourly, &TIMES), [0, 1]);
    }

    #[test]
    fn keeps_the_oldest_while_a_rule_has_some_left() {
        let monthly = Policy {
            monthly: count("3"),
            ..Policy::default()
        };
        assert_eq!(kept(monthly, &TIMES), [0, 3, 10]);
        let reasons = apply(monthly, &TIMES);
        assert_eq!(reasons[0], ["monthly"]);
        assert_eq!(reasons[10], ["oldest monthly"]);
        let unlimited = Policy {
            weekly: count("unlimited"),
            ..Policy::default()
        };
        assert_eq!(kept(unlimited, &TIMES), [0, 5, 10]);
    }

    #[test]
    fn keeps_a_span_before_the_newest_version_that_is_not_in_the_future() {
        let within = Policy {
            within: Some("7d".parse().expect("a valid span")),
            ..Policy::default()
        };
        assert_eq!(kept(within, &TIMES), [0, 1, 2, 3, 4]);
        // Exactly as old as the span is too old.
        let within = Policy {
            within: Some("12h".parse().expect("a valid span")),
            ..Policy::default()
        };
        assert_eq!(kept(within, &TIMES), [0]);
        let mut times = vec!["2030-01-01T00:00Z"];
        times.extend(TIMES);
        assert_eq!(kept(within, &times), [0, 1]);
        assert_eq!(kept(within, &["2031-01-01T00:00Z", times[0]]), [0, 1]);
    }

    #[test]
    fn a_version_is_kept_for_each_rule_that_keeps_it() {
        let policy = Policy {
            last: count("1"),
            daily: count("1"),
            monthly: count("1"),
            ..Policy::default()
        };
        let reasons = apply(policy, &TIMES);
        assert_eq!(reasons[0], ["last", "daily", "monthly"]);
        assert!(reasons[1..].iter().all(Vec::is_empty));
        assert_eq!(apply(policy, &[]), Vec::<Vec<String>>::new());
    }

    #[test]
    fn periods_begin_in_the_zone_of_the_times() {
        let daily = Policy {
            daily: count("2"),
            ..Policy::default()
        };
        let times = [
            "2025-05-02T17:00Z",
            "2025-05-02T15:00Z",
            "2025-05-01T01:00Z",
        ];
        assert_eq!(kept(daily, &times), [0, 2]);
        let times = zoned(&times, &TimeZone::fixed(offset(8)));
        assert_eq!(numbers(&daily.apply(&times, timestamp(NOW))), [0, 1]);
    }

    #[test]
    fn weeks_begin_on_monday_also_at_the_end_of_a_year() {
        let weekly = Policy {
            weekly: count("2"),
            ..Policy::default()
        };
        let times = [
            "2025-01-01T00:00Z",
            "2024-12-30T00:00Z",
            "2024-12-29T23:59Z",
            "2024-12-20T00:00Z",
        ];
        assert_eq!(kept(weekly, &times), [0, 2]);
    }

    #[test]
    fn spans_are_subtracted_by_the_calendar() {
        for (span, time, expected) in [
            ("1y2m3d4h", "2025-05-10T12:00Z", "2024-03-07T08:00Z"),
            ("5m", "2025-05-10T12:00Z", "2024-12-10T12:00Z"),
            ("1m", "2025-10-31T00:00Z", "2025-10-01T00:00Z"),
        ] {
            let parsed: Span = span.parse().expect("a valid span");
            let time = timestamp(time).to_zoned_datetime(TimeZone::UTC);
            let before = parsed.before(&time).expect("a valid time");
            assert_eq!(before.timestamp(), timestamp(expected), "{span}");
            assert_eq!(parsed.to_string(), span);
        }
        for text in ["", "5", "0d", "1w", "d", "-1d", "1.5d", "99999d", "１d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let longest: Span = "65535y".parse().expect("a valid span");
        let within = Policy {
            within: Some(longest),
            ..Policy::default()
        };
        assert_eq!(kept(within, &TIMES).len(), TIMES.len());
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_empty() {
        assert!(Policy::default().is_empty());
        let zero = Policy {
            last: count("0"),
            ..Policy::default()
        };
        assert!(zero.is_empty());
        for text in ["-1", "x", "", "1.5"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }
}
