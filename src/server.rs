//! The accept loop that all HTTP servers of the bridge share: header timeout, bound on connections, graceful end with a
//! deadline. `axum::serve` has none of these.
