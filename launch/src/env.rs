//! The few environment variables a user sets.

use crate::LaunchError;

/// The number of compute threads asked for by `ECHAT_THREADS` or, failing that, `OMP_NUM_THREADS` (its first level).
/// `None` when neither is set; [`crate::World::default_threads`] is then a good choice.
pub fn threads() -> Result<Option<usize>, LaunchError> {
    threads_from(&read)
}

/// Whether `NO_COLOR` asks for plain text (<https://no-color.org>: present and not empty).
pub fn no_color() -> bool {
    read("NO_COLOR").is_some()
}

/// The variable a user's configuration names, such as that of an API key; unset, empty and non-Unicode are all `None`.
pub fn named(name: &str) -> Option<String> {
    read(name)
}

/// A variable's value; unset, empty and non-Unicode are all `None`.
pub(crate) fn read(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.trim().is_empty())
}

fn threads_from(vars: &dyn Fn(&str) -> Option<String>) -> Result<Option<usize>, LaunchError> {
    for name in ["ECHAT_THREADS", "OMP_NUM_THREADS"] {
        let Some(value) = vars(name) else { continue };
        return match value.split(',').next().unwrap_or_default().trim().parse() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(LaunchError::Malformed { name, value, expected: "a positive number of threads" }),
        };
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn threads_in(vars: &[(&str, &str)]) -> Result<Option<usize>, LaunchError> {
        threads_from(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn threads_prefer_our_own_variable() {
        assert_eq!(threads_in(&[]), Ok(None));
        assert_eq!(threads_in(&[("OMP_NUM_THREADS", "4,2")]), Ok(Some(4)));
        assert_eq!(threads_in(&[("OMP_NUM_THREADS", "4"), ("ECHAT_THREADS", "3")]), Ok(Some(3)));
    }

    #[test]
    fn threads_that_are_no_number_are_an_error_naming_the_variable() {
        for value in ["0", "-1", "many"] {
            let error = threads_in(&[("ECHAT_THREADS", value)]).unwrap_err().to_string();
            assert!(error.contains("ECHAT_THREADS") && error.contains(value), "{error}");
        }
    }
}
