//! `-force_key_frames` in the forms that Plex writes (PROTOCOL 7.1).

use plexbeam_api::job::ForcedKeys;

/// Reads `expr:gte(t,n_forced*D)`, `expr:gte(t,S+n_forced*D)` with S zero or a multiple of D (both
/// mean the grid of multiples of D on the title's timeline), and a list of times. `None` for any
/// other text.
pub(super) fn parse(text: &str) -> Option<ForcedKeys> {
    if let Some(expression) = text.strip_prefix("expr:") {
        return grid(expression);
    }
    let seconds: Vec<f64> = text
        .split(',')
        .map(|t| {
            t.trim()
                .parse()
                .ok()
                .filter(|s: &f64| s.is_finite() && *s >= 0.0)
        })
        .collect::<Option<_>>()?;
    seconds.is_sorted().then_some(ForcedKeys::Times { seconds })
}

fn grid(expression: &str) -> Option<ForcedKeys> {
    let packed: String = expression.chars().filter(|c| !c.is_whitespace()).collect();
    let right = packed.strip_prefix("gte(t,")?.strip_suffix(')')?;
    let (shift, interval) = match right.split_once('+') {
        Some((shift, rest)) => (seconds(shift)?, rest),
        None => (0.0, right),
    };
    let interval = seconds(interval.strip_prefix("n_forced*")?)?;
    if interval <= 0.0 {
        return None;
    }
    let steps = shift / interval;
    ((steps - steps.round()).abs() < 1e-6).then_some(ForcedKeys::Every { seconds: interval })
}

/// Only digits and a point: no sign, exponent, `inf` or function.
fn seconds(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_plex_writes() {
        let every = |seconds| Some(ForcedKeys::Every { seconds });
        for (text, want) in [
            ("expr:gte(t,n_forced*3)", every(3.0)),
            ("expr:gte(t,0+n_forced*5)", every(5.0)),
            ("expr:gte(t,40+n_forced*8)", every(8.0)),
            ("expr:gte(t, 2.5 + n_forced * 2.5)", every(2.5)),
            ("expr:gte(t,41+n_forced*8)", None),
            ("expr:gte(t0+n_forced*1)", None),
            ("expr:gte(t,n_forced*0)", None),
            ("expr:gte(t,n_forced*-3)", None),
            ("expr:gte(t,n_forced*3)*0", None),
            ("expr:not(mod(n,30))", None),
            ("expr:gte(t,n_forced*1e1)", None),
            ("expr:gte(t,n_forced*inf)", None),
            ("0,inf", None),
            ("nan", None),
            ("-1,0", None),
            ("source", None),
            ("", None),
            ("0,3,1", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
        assert_eq!(
            parse("0,3.003,6.006"),
            Some(ForcedKeys::Times {
                seconds: vec![0.0, 3.003, 6.006]
            })
        );
    }
}
