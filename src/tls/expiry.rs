//! When a certificate ends.
//!
//! Owns: the way through a certificate's DER to its `notAfter` (RFC 5280, 4.1). Must never do: judge
//! the certificate, or fail for one that it cannot read: clients judge, and the answer is `None`.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of its validity, Unix seconds.
pub(super) fn not_after(cert: &[u8]) -> Option<i64> {
    let (certificate, _) = expect(cert, SEQUENCE)?;
    let (tbs, _) = expect(certificate, SEQUENCE)?;
    // Version 1 certificates do not say so.
    let tbs = expect(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    let (_, rest) = expect(tbs, INTEGER)?;
    let (_, rest) = expect(rest, SEQUENCE)?; // signature algorithm
    let (_, rest) = expect(rest, SEQUENCE)?; // issuer
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?; // notBefore
    let (tag, time, _) = element(rest)?;
    match tag {
        UTC_TIME => {
            let year = number(time.get(..2)?)?;
            unix(if year < 50 { 2000 + year } else { 1900 + year }, time.get(2..)?)
        }
        GENERALIZED_TIME => unix(number(time.get(..4)?)?, time.get(4..)?),
        _ => None,
    }
}

/// The contents of the first element, which has this tag, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, contents, rest)| (contents, rest))
}

/// Tag and contents of the first element, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80).filter(|(b, _)| b.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

/// `MMDDHHMMSSZ` of a year.
fn unix(year: i64, rest: &[u8]) -> Option<i64> {
    let part = |at: usize| number(rest.get(at..at + 2)?);
    if rest.len() != 11 || rest.last() != Some(&b'Z') {
        return None;
    }
    let (month, day) = (part(0)?, part(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + part(4)? * 3600 + part(6)? * 60 + part(8)?)
}

/// Days since 1970 in the Gregorian calendar. Years begin in March here, so that a leap day is the
/// last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - 719_468
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    fn cert(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    #[test]
    fn both_ways_of_writing_a_date_are_read() {
        // `openssl x509 -enddate`: Nov  1 10:42:45 2126 GMT, and Mar  1 00:00:00 2024 GMT.
        let late = cert(include_bytes!("../../tests/it/support/tls/server.pem"));
        assert_eq!(not_after(&late), Some(4_949_203_365));
        let early = cert(include_bytes!("../../tests/it/support/tls/ended.pem"));
        assert_eq!(not_after(&early), Some(1_709_251_200));
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, want) in [
            ((1970, 1, 1), 0),
            ((1972, 3, 1), 790),
            ((2000, 2, 29), 11_016),
            ((2024, 12, 31), 20_088),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days(date.0, date.1, date.2), want, "{date:?}");
        }
    }

    #[test]
    fn whatever_is_no_certificate_has_no_end() {
        let whole = cert(include_bytes!("../../tests/it/support/tls/server.pem"));
        for cut in 0..whole.len() {
            // Cut or bent anywhere: an answer, and no panic.
            not_after(&whole[..cut]);
            let mut bent = whole.to_vec();
            bent[cut] ^= 0xff;
            not_after(&bent);
        }
        assert_eq!(not_after(&whole[..100]), None);
        assert_eq!(not_after(b""), None);
        assert_eq!(unix(2024, b"0230000000"), None);
        assert_eq!(unix(2024, b"1301000000Z"), None);
    }
}
