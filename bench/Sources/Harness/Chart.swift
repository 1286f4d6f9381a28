import Foundation

/// A line chart in SVG, both axes logarithmic: a straight line that rises as fast as it goes is linear growth.
struct Chart {
    struct Line {
        let name: String
        var points: [(x: Double, y: Double)]
    }

    let title: String
    let xLabel: String
    let yLabel: String
    var lines: [Line]

    private static let width = 640.0
    private static let height = 400.0
    private static let left = 70.0
    private static let right = 170.0
    private static let top = 40.0
    private static let bottom = 50.0
    private static let colours = ["#1b6ac9", "#c9481b", "#2a8f4f", "#7a3fb0", "#8a6d00"]

    func write(to path: String) throws {
        try svg.write(toFile: path, atomically: true, encoding: .utf8)
    }

    var svg: String {
        let points = lines.flatMap(\.points)
        let xs = decades(points.map(\.x))
        let ys = decades(points.map(\.y))
        var parts = [
            """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Int(Self.width)) \(Int(Self.height))" \
            font-family="sans-serif" font-size="12" fill="#333">
            <rect width="100%" height="100%" fill="#fff"/>
            <text x="\(Self.left)" y="22" font-size="15">\(escaped(title))</text>
            <text x="\(Self.left + plotWidth / 2)" y="\(Self.height - 12)" text-anchor="middle">\(escaped(xLabel))</text>
            <text transform="translate(16 \(Self.top + plotHeight / 2)) rotate(-90)" text-anchor="middle">\(escaped(yLabel))</text>
            """
        ]
        for exponent in xs {
            let x = position(pow(10, Double(exponent)), xs, from: Self.left, length: plotWidth)
            parts.append(
                """
                <path d="M\(text(x)) \(Self.top)v\(plotHeight)" stroke="#ddd"/>
                <text x="\(text(x))" y="\(Self.top + plotHeight + 16)" text-anchor="middle">\(label(exponent))</text>
                """)
        }
        for exponent in ys {
            let y = position(pow(10, Double(exponent)), ys, from: Self.top + plotHeight, length: -plotHeight)
            parts.append(
                """
                <path d="M\(Self.left) \(text(y))h\(plotWidth)" stroke="#ddd"/>
                <text x="\(Self.left - 6)" y="\(text(y + 4))" text-anchor="end">\(label(exponent))</text>
                """)
        }
        for (index, line) in lines.enumerated() {
            let colour = Self.colours[index % Self.colours.count]
            let places = line.points.map { point in
                (
                    position(point.x, xs, from: Self.left, length: plotWidth),
                    position(point.y, ys, from: Self.top + plotHeight, length: -plotHeight)
                )
            }
            let path = places.map { "\(text($0.0)),\(text($0.1))" }.joined(separator: " ")
            parts.append("<polyline points=\"\(path)\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"2\"/>")
            for place in places {
                parts.append("<circle cx=\"\(text(place.0))\" cy=\"\(text(place.1))\" r=\"3\" fill=\"\(colour)\"/>")
            }
            parts.append(
                """
                <text x="\(Self.width - Self.right + 12)" y="\(Self.top + 14 + Double(index) * 18)" \
                fill="\(colour)">\(escaped(line.name))</text>
                """)
        }
        return parts.joined(separator: "\n") + "\n</svg>\n"
    }

    private var plotWidth: Double { Self.width - Self.left - Self.right }
    private var plotHeight: Double { Self.height - Self.top - Self.bottom }

    /// The powers of ten that hold the values between them.
    private func decades(_ values: [Double]) -> ClosedRange<Int> {
        let logarithms = values.filter { $0 > 0 }.map { log10($0) }
        let low = Int((logarithms.min() ?? 0).rounded(.down))
        return low...max(Int((logarithms.max() ?? 1).rounded(.up)), low + 1)
    }

    private func position(_ value: Double, _ range: ClosedRange<Int>, from start: Double, length: Double) -> Double {
        let share = (log10(value) - Double(range.lowerBound)) / Double(range.upperBound - range.lowerBound)
        return start + share * length
    }

    private func label(_ exponent: Int) -> String {
        guard exponent >= 0 else { return number(pow(10, Double(exponent)), -exponent) }
        let units = ["", "k", "M", "G"]
        let unit = min(exponent / 3, units.count - 1)
        return "1" + String(repeating: "0", count: exponent - unit * 3) + units[unit]
    }

    private func text(_ value: Double) -> String { number(value, 1) }

    private func escaped(_ text: String) -> String {
        text.replacing("&", with: "&amp;").replacing("<", with: "&lt;")
    }
}
