//! `{name}` in prompts and commands.

/// `template` with every `{name}` of `values` replaced, in one pass: what is put in is never read again. Other braces stay.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let found = values.iter().find_map(|(name, value)| {
            let after = from[1..].strip_prefix(name)?.strip_prefix('}')?;
            Some((*value, after))
        });
        let (put, after) = found.unwrap_or(("{", &from[1..]));
        filled.push_str(put);
        rest = after;
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_once_and_other_braces_stay() {
        let values = [("text", "a {emotion} b"), ("emotion", "sad")];
        assert_eq!(fill("{emotion}: {text}{text}", &values), "sad: a {emotion} ba {emotion} b");
        assert_eq!(fill("{\"k\": \"{other}\" {", &values), "{\"k\": \"{other}\" {");
        assert_eq!(fill("好{text}", &[("text", "吗")]), "好吗");
    }
}
