from modules.policy import VALUE

LIMIT = VALUE["limit"]
