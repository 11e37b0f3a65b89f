//! Room: which region is nearest to a place on the map. Pure; for hints to clients (`see-other-host`, TURN) and the operator.

/// Latitude and longitude in degrees.
pub type Place = (f64, f64);

/// Great-circle distance in kilometres (haversine, mean earth radius).
pub fn distance_km(a: Place, b: Place) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let d_lat = (b.0 - a.0).to_radians();
    let d_lon = (b.1 - a.1).to_radians();
    let h = (d_lat / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * (d_lon / 2.0).sin().powi(2);
    2.0 * 6_371.0 * h.sqrt().asin()
}

/// The nearest of the named regions; ties go to the first. `None` when there is none.
pub fn nearest<'a>(
    from: Place,
    regions: impl IntoIterator<Item = (&'a str, Place)>,
) -> Option<&'a str> {
    regions
        .into_iter()
        .map(|(name, place)| (name, distance_km(from, place)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lisbon_goes_to_dublin_and_osaka_to_tokyo() {
        let regions = [("eu", (53.3, -6.3)), ("us", (39.0, -77.5)), ("ap", (35.7, 139.7))];
        assert_eq!(nearest((38.7, -9.1), regions), Some("eu"));
        assert_eq!(nearest((34.7, 135.5), regions), Some("ap"));
    }
}
