/// What an error answer of ClickHouse is about, decided from its code, or its status if it has no code; never from its text.
public enum ServerFailure: Equatable, Sendable {
    /// The server, its resources or the way to it: the same request may succeed later.
    case passing
    /// The rows of the request.
    case content
    /// Schema, settings, privileges: an operator is needed.
    case configuration

    public init(status: Int, code: Int) {
        switch code {
        case 0:
            self = [401, 403, 404].contains(status) ? .configuration : .passing
        case _ where Self.contentCodes.contains(code):
            self = .content
        case _ where Self.configurationCodes.contains(code):
            self = .configuration
        default:
            // Among them CANNOT_READ_ALL_DATA (33: the body was cut), QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING (216), MEMORY_LIMIT_EXCEEDED
            // (241), NOT_ENOUGH_SPACE (243), TOO_MANY_PARTS (252) and TABLE_IS_READ_ONLY (242). An unknown code parks no events.
            self = .passing
        }
    }

    private static let contentCodes: Set<Int> = [
        6,  // CANNOT_PARSE_TEXT
        26,  // CANNOT_PARSE_QUOTED_STRING
        27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
        38,  // CANNOT_PARSE_DATE
        41,  // CANNOT_PARSE_DATETIME
        43,  // ILLEGAL_TYPE_OF_ARGUMENT
        53,  // TYPE_MISMATCH
        69,  // ARGUMENT_OUT_OF_BOUND
        70,  // CANNOT_CONVERT_TYPE
        72,  // CANNOT_PARSE_NUMBER
        117,  // INCORRECT_DATA
        131,  // TOO_LARGE_STRING_SIZE
        321,  // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        395,  // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        407,  // DECIMAL_OVERFLOW
        467,  // CANNOT_PARSE_BOOL
        469,  // VIOLATED_CONSTRAINT
        691,  // UNKNOWN_ELEMENT_OF_ENUM
    ]

    private static let configurationCodes: Set<Int> = [
        16,  // NO_SUCH_COLUMN_IN_TABLE
        20,  // NUMBER_OF_COLUMNS_DOESNT_MATCH
        46,  // UNKNOWN_FUNCTION
        47,  // UNKNOWN_IDENTIFIER
        48,  // NOT_IMPLEMENTED
        60,  // UNKNOWN_TABLE
        62,  // SYNTAX_ERROR
        73,  // UNKNOWN_FORMAT
        81,  // UNKNOWN_DATABASE
        115,  // UNKNOWN_SETTING
        164,  // READONLY
        192,  // UNKNOWN_USER
        193,  // WRONG_PASSWORD
        194,  // REQUIRED_PASSWORD
        195,  // IP_ADDRESS_NOT_ALLOWED
        291,  // DATABASE_ACCESS_DENIED
        344,  // SUPPORT_IS_DISABLED
        392,  // QUERY_IS_PROHIBITED
        452,  // SETTING_CONSTRAINT_VIOLATION
        497,  // ACCESS_DENIED
        516,  // AUTHENTICATION_FAILED
    ]

    /// The code of an error answer: the header's, or, for servers before 20, the number after "Code: " with which the body begins.
    public static func code(header: String?, body: some Sequence<UInt8>) -> Int {
        if let header, let code = Int(header) { return code }
        var rest = body.makeIterator()
        for byte in "Code: ".utf8 {
            guard rest.next() == byte else { return 0 }
        }
        var code = 0
        while let byte = rest.next(), (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte), code < 100_000 {
            code = code &* 10 &+ Int(byte &- UInt8(ascii: "0"))
        }
        return code
    }
}
