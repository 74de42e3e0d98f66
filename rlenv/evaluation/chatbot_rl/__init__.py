"""The figures of a chatbot's training: records, measures, paired tests, alarms."""
