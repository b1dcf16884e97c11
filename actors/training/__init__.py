"""The interval and the two trainers.

What one rank of a group does: adopt, optimizer steps, publish, checkpoint. The two trainers never
import each other. Imports measuring and what lies below it.
"""
