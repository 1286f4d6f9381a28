internal import Pipeline

/// The exposition format, version 0.0.4.
struct PrometheusText {
    private(set) var text = ""

    /// - Parameter value: nil while it is not known, which is another thing than 0.
    mutating func gauge(_ name: String, _ help: String, _ value: Double?) {
        guard let value else { return }
        header(name, help, "gauge")
        text += "\(name) \(value)\n"
    }

    typealias Labelled = (labels: [(name: String, value: String)], value: Double)

    /// One value for each set of labels.
    mutating func gauges(_ name: String, _ help: String, _ values: [Labelled]) {
        family(name, help, "gauge", values)
    }

    mutating func counters(_ name: String, _ help: String, _ values: [Labelled]) {
        family(name, help, "counter", values)
    }

    private mutating func family(_ name: String, _ help: String, _ type: String, _ values: [Labelled]) {
        guard !values.isEmpty else { return }
        header(name, help, type)
        for (labels, value) in values {
            let pairs = labels.map { label in
                let escaped = label.value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing(
                    "\n", with: "\\n")
                return "\(label.name)=\"\(escaped)\""
            }
            text += "\(name){\(pairs.joined(separator: ","))} \(value)\n"
        }
    }

    mutating func counter(_ name: String, _ help: String, _ value: UInt64) {
        header(name, help, "counter")
        text += "\(name) \(value)\n"
    }

    /// The sum is of the buckets' upper bounds: an upper estimate.
    mutating func histogram(_ name: String, _ help: String, _ lag: LagHistogram) {
        header(name, help, "histogram")
        var count: Int64 = 0
        var sum: Double = 0
        for (bound, events) in zip(LagHistogram.bounds, lag.counts) {
            count += Int64(events)
            sum += Double(bound) / 1000 * Double(events)
            text += "\(name)_bucket{le=\"\(Double(bound) / 1000)\"} \(count)\n"
        }
        let total = lag.total
        text += "\(name)_bucket{le=\"+Inf\"} \(total)\n\(name)_sum \(sum)\n\(name)_count \(total)\n"
    }

    private mutating func header(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }
}
