//! Numbers with units, for people.

/// Bytes, in the largest power of 1024 that leaves a short number: `64 KiB`, `1.5 GiB`, `13 B`.
pub(crate) fn bytes(count: u64) -> String {
    let unit = UNITS.iter().rev().find(|(unit_bytes, _)| count >= *unit_bytes);
    let (unit_bytes, name) = unit.unwrap_or(&UNITS[0]);
    let value = count as f64 / *unit_bytes as f64;
    let text = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") };
    format!("{text} {name}")
}

/// A count with its noun, in the plural where it must be.
pub(crate) fn counted(count: u32, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

const UNITS: [(u64, &str); 5] =
    [(1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_numbers_of_powers_of_1024() {
        let cases = [
            (0, "0 B"),
            (13, "13 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (3 << 30, "3 GiB"),
            (1 << 50, "1024 TiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn one_has_no_plural() {
        assert_eq!(counted(1, "rank"), "1 rank");
        assert_eq!(counted(2, "rank"), "2 ranks");
    }
}
