//! Policies.

pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| strsim::osa_distance(wrong, name);
    known
        .map(|name| (distance(name), name))
        .filter(|(far, name)| *far <= name.len().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}
